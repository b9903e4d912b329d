"""Classifiers that ONNX Runtime runs as they are: calibrated, never trained."""
