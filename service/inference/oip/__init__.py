"""The Open Inference Protocol (version 2): requests and responses in JSON and binary tensors.

`requests` decodes, `outputs` chooses the requested outputs, `responses` encodes, `metadata` describes models.
"""
