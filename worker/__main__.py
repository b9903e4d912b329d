"""`python -m worker`: run a worker with the settings of the environment."""

from worker.app import main
from worker.settings import WorkerSettings

if __name__ == "__main__":
    main(WorkerSettings())
