"""The client of a FedLAS service: models and datasets out, calibrated predictions and typed reports back."""
