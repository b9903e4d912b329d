"""Classic mistakes between a model and a dataset, and pairs without any: what a dry run says about each.

Whoever wrote this had not read the checks. `python -m benchmarks.mistakes` runs all of it.
"""
