"""Image encoders, text encoders, layers and their weights."""
