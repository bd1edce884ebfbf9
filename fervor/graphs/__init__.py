"""Trained models as ONNX graphs, in single precision and in int8."""
