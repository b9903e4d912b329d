"""The HTTP surface under `/v1`: one module per resource, thin; errors meet status codes in `problems` only."""
