"""The engine: models open in ONNX Runtime, their queues, and batches of rows of many requests."""
