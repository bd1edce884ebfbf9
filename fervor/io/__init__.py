"""Bytes to and from images, frames and files."""
