"""Serving: ONNX Runtime sessions over files that we wrote, and the answers made from their outputs.

It knows neither HTTP nor the database; the API and the batch predictions of the worker both use it.
"""
