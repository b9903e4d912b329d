"""Serving: predictions are answered in front of FastAPI, by the same rules as everything else.

A request through the framework's layers costs about as much again as all that a prediction needs (measured: 10,000
against 20,000 empty answers a second on one core).
"""
