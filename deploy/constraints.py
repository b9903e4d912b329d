"""Write deploy/constraints.txt: the versions that pip takes today for what the images install.

    python3.11 deploy/constraints.py        # the images' Python; only metadata is downloaded

Both builds of ONNX Runtime are resolved, each with all else, since an image has one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXTRAS = ("service,worker,postgresql,s3", "service-gpu,worker-gpu,postgresql,s3")
HEADER = (
    "# The versions in the images, written by deploy/constraints.py: without them each build takes what is newest.\n"
)


def resolved(extras: str) -> dict[str, str]:
    """Distribution → version, as pip resolves the clone with these extras."""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = subprocess.run([*pip, f"{HERE.parent}[{extras}]"], check=True, stdout=subprocess.PIPE)
    found = (part["metadata"] for part in json.loads(report.stdout)["install"])
    return {part["name"].lower().replace("_", "-"): part["version"] for part in found if part["name"] != "fedlas"}


def main() -> None:
    """Write the file."""
    pins: dict[str, str] = {}
    for extras in EXTRAS:
        pins |= resolved(extras)
    lines = (f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(pins.items()))
    (HERE / "constraints.txt").write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
