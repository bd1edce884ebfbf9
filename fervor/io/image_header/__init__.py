"""What an image file says of itself, and whether that is too much, before a decoder runs.

A decoder's work is not bounded by a file's size: a few bytes make it pass over all pixels again, or
ask for an image of gigabytes. Here the bytes that say so are walked in bounded steps, for each
format that is read.
"""

from fervor.io.image_header.formats import read_header
from fervor.io.image_header.header import MAX_SCANS, MAX_SIDE, ImageHeader, check_header
from fervor.io.image_header.heif import is_heif


__all__ = ["MAX_SCANS", "MAX_SIDE", "ImageHeader", "check_header", "is_heif", "read_header"]
