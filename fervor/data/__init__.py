"""Annotation files to samples to batches."""
