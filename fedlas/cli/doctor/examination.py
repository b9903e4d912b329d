"""The examination: all checks at the same time, each in a process that is ended at the time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from threading import Timer

from fedlas.cli.doctor.finding import Finding

#: Check → where it is, and the extra that it needs; its name is the heading of its lines.
CHECKS = {
    "installed": ("fedlas.cli.doctor.installed:check", "cli"),
    "ONNX Runtime": ("fedlas.cli.doctor.devices:onnx_runtime", "library"),
    "PyTorch": ("fedlas.cli.doctor.devices:pytorch", "library"),
    "machine": ("fedlas.cli.doctor.machine:check", "cli"),
    "server": ("fedlas.cli.doctor.server:check", "client"),
}
TIME_LIMIT_S = 10.0
_LAST_WORDS = 300


def examine(*, environment: Mapping[str, str] | None = None, seconds: float = TIME_LIMIT_S) -> list[Finding]:
    """Run all checks and return their findings, check by check.

    Args:
        environment: variables beside, or in place of, this process' own.
        seconds: how long each check may take.
    """
    checks = {**CHECKS, **{point.name: (point.value, point.name) for point in entry_points(group="fedlas.doctor")}}
    with ThreadPoolExecutor(len(checks)) as pool:
        running = [pool.submit(_run, name, *check, environment or {}, seconds) for name, check in checks.items()]
        return [finding for one in running for finding in one.result()]


def _run(name: str, place: str, extra: str, environment: Mapping[str, str], seconds: float) -> list[Finding]:
    """The findings of one check, and one more where its process came to no good end."""
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "fedlas.cli.doctor.child", place, extra],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment}, start_new_session=True,
    )  # fmt: skip
    timer = Timer(seconds, _end, [child])
    timer.start()
    try:
        written, said = child.communicate()
    finally:
        timer.cancel()
    findings = list(_read(name, written))
    if time.monotonic() - started >= seconds and child.returncode == -signal.SIGKILL:
        findings.append(Finding(name, name, "warn", f"no answer within {seconds:g} s", "try again with --timeout 60"))
    elif child.returncode != 0:
        last = " ".join(said[-_LAST_WORDS:].split())
        findings.append(Finding(name, name, "fail", f"its process ended with {child.returncode}: {last}"))
    return findings


def _end(child: subprocess.Popen[str]) -> None:
    """End the process with all that it has started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def _read(name: str, written: str) -> Iterator[Finding]:
    for line in written.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # cut off at the time limit
            continue
        if isinstance(record, dict):
            yield Finding.read(name, {**record, "name": record.get("name") or name})
