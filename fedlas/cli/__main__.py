"""`python -m fedlas.cli`."""

from __future__ import annotations

import sys

from fedlas.cli import main

if __name__ == "__main__":
    sys.exit(main())
