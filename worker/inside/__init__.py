"""What runs in the sandbox: files in, files out."""
