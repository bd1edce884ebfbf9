"""Faces: found, aligned, cropped, followed; their landmarks."""
