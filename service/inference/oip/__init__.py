"""The Open Inference Protocol (version 2): requests and answers in JSON and binary tensors; it knows no HTTP.

`requests` reads what came, `outputs` chooses and computes what goes back, `responses` writes it, `metadata` describes.
"""
