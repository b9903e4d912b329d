"""The registry: records and files, shared by the service and the worker."""
