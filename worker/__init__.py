"""The worker: queue in, registry out. Uploads are opened and jobs run only in its sandboxed child processes."""
