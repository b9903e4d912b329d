"""The edge of FedLAS service: HTTP in, HTTP out. It never loads PyTorch and never opens an uploaded file."""
