"""`python -m worker`: Celery's worker with a name of its own, serving the queues of the settings; takes its options."""

import os
import socket
import sys

from worker.app import app

if __name__ == "__main__":
    name = f"worker-{os.getpid()}@{socket.gethostname()}"
    code = app.start(["--quiet", "worker", "--hostname", name, *sys.argv[1:]])
    sys.stdout.flush()
    os._exit(code or 0)  # a connection that hangs in the broker's client does not delay the exit
