"""The serving benchmark: the same ONNX file behind several servers, the same load on each of them in turn."""
