"""What service and worker agree on: records and files. It knows no HTTP, no queue and no network."""
