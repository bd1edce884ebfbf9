"""The model folder: read, verified, described, shared."""
