"""The conversion of what Python programs hold (networks, estimators, frames, loaders) to files that a service takes."""
