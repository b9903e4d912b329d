"""The Open Inference Protocol (version 2): requests and responses in JSON and binary tensors."""
