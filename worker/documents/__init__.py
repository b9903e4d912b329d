"""The documents that pass the border of the sandbox: orders in, results and events out, each validated on arrival."""
