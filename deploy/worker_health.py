"""Exit code 0 if the worker of this container looks for work.

A worker touches a file each time it looks into the database for what waits, with or without a broker.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

#: A look may wait 30 s for its turn and 30 s for a lock in a database that stands still: the worker is not to blame.
_FRESH_S = 90.0 + float(os.environ.get("FEDLAS_POLL_SECONDS", 1))


def main() -> int:
    """Look at the files of this host's workers."""
    folder = Path(os.environ.get("FEDLAS_DATA_DIR", "fedlas-data")) / "run"
    ages = {file.name: time.time() - file.stat().st_mtime for file in folder.glob(f"{socket.gethostname()}-*.alive")}
    fresh = [name for name, age in ages.items() if age < _FRESH_S]
    print(f"fresh here: {', '.join(fresh) or 'none'}; stale: {len(ages) - len(fresh)}")
    return 0 if fresh else 1


if __name__ == "__main__":
    sys.exit(main())
