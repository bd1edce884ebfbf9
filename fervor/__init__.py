"""Facial expression recognition with vision-language models: train, evaluate, predict, export."""

__version__ = "0.1.0"
