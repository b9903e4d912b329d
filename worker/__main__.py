"""`python -m worker`: run a worker with the settings of the environment."""

import os
import sys

from worker.app import main
from worker.settings import WorkerSettings

if __name__ == "__main__":
    code = main(WorkerSettings())
    sys.stdout.flush()
    os._exit(code)  # a consumer that hangs in the broker's client does not delay the exit
