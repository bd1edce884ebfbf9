"""Predictions as rows, drawings and timelines."""
