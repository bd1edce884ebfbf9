"""Metrics, tests and reports of a model on a data set."""
