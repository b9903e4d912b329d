"""`python -m fedlas.cli.doctor` is `fedlas doctor` without its options."""

import sys

from fedlas.cli.doctor.run import run

sys.exit(run(as_json="--json" in sys.argv))
