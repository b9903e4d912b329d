"""The code inside of the sandbox: files in, files out."""
