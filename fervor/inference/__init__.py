"""Predictions, and what corrects or explains them."""
