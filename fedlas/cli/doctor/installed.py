"""What is installed: Python, FedLAS and its extras, complete or not, and what does not go together."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import distribution, metadata, version

from packaging.requirements import Requirement

from fedlas.extras import TwoRuntimes, beside, check_single_runtime, command
from fedlas.extras import installed as _version

#: Extras that are asked for by name, in the order of what they are for; the others are parts of these.
EXTRAS = (
    "client",
    "cli",
    "arrays",
    "library",
    "sklearn",
    "service",
    "worker",
    "standalone",
    "postgresql",
    "s3",
    "otel",
)

Line = dict[str, str]


def check() -> Iterator[Line]:
    """Python and FedLAS, both builds of ONNX Runtime at once, and each extra."""
    yield {"name": "Python", "status": "ok", "found": f"{platform.python_version()} on {platform.platform(terse=True)}"}
    yield {
        "name": "FedLAS",
        "status": "ok",
        "found": f"{version('fedlas')} in {distribution('fedlas').locate_file('')}",
    }
    try:
        check_single_runtime()
    except TwoRuntimes as both:
        yield {"name": "ONNX Runtime", "status": "fail", "found": both.found, "remedy": both.remedy}
    for extra in EXTRAS:
        yield _extra(beside(extra))


def _extra(extra: str) -> Line:
    """Complete, of a version that is not supported, or not there."""
    needed = requirements(extra)
    lacking = sorted(name for name in needed if _version(name) is None)
    if lacking:
        return _line(extra, "skip", f"not installed: lacks {', '.join(lacking)}")
    wrong = {name: needed[name] for name in needed if not needed[name].specifier.contains(_version(name) or "", True)}
    if wrong:
        told = "; ".join(f"{name} {_version(name)}, needed is {wrong[name].specifier}" for name in sorted(wrong))
        return _line(extra, "fail", f"not supported: {told}")
    return {"name": f"fedlas[{extra}]", "status": "ok", "found": "complete"}


def _line(extra: str, status: str, found: str) -> Line:
    return {"name": f"fedlas[{extra}]", "status": status, "found": found, "remedy": command(extra)}


def requirements(extra: str) -> dict[str, Requirement]:
    """Distribution → requirement of an extra on this platform, with those of the extras that it names."""
    found: dict[str, Requirement] = {}
    for line in metadata("fedlas").get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "fedlas":
            for part in sorted(requirement.extras):
                found |= requirements(part)
        else:
            found[requirement.name] = requirement
    return found
