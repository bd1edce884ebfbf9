"""Bytes to images, frames and files, and back."""
