"""The hosted run: no less than `.ci/run`, by targets that exist, with as few rights as its jobs need."""

from __future__ import annotations

import re

import yaml

from tests.helpers import ROOT, Json
from tests.helpers.programs import PROGRAMS

WORKFLOW: Json = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS: dict[str, Json] = WORKFLOW["jobs"]
#: Rows of the jobs that are made of a table, by the row's name.
ROWS = {
    row["name"]: row for job in JOBS.values() for row in job.get("strategy", {}).get("matrix", {}).get("include", [])
}
STEPS = [step for job in JOBS.values() for step in job["steps"]]
COMMANDS = "\n".join(one["run"] for one in [*STEPS, *ROWS.values()] if "run" in one)
#: Targets of make, and programs of ours; options and paths of tests apart.
_OURS = re.compile(r"(?:(?<=python -m )|(?<=RUNNER=))tests\.[\w.]+|(?<=make )[a-z.][a-z./ -]*|fedlas demo")


def ours(script: str) -> set[str]:
    """Targets and programs that a script runs."""
    return {word for found in _OURS.findall(script) for word in (found.split() if "demo" not in found else [found])}


def test_the_hosted_run_does_what_the_local_one_does() -> None:
    """Each target and program of `.ci/run` is in a job, each target is in the Makefile, and no program is missing."""
    script = re.sub(r"#.*", "", (ROOT / ".ci" / "run").read_text())
    assert {"check", "servers", "slow", "tests.chaos"} <= ours(script)
    assert ours(script) - {"setup"} <= ours(COMMANDS)  # other targets begin with that one
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in ours(COMMANDS) if word.isalpha()} <= targets
    packages = {name for row in ROWS.values() for name in row.get("packages", "").split()}
    assert {one.package for one in PROGRAMS} <= packages
    assert all(re.search(rf"\b{name}\b", script) for name in packages)


def test_jobs_end_and_may_do_little() -> None:
    """Every job has a limit of time, reads the repository, and writes where a site or a release is published alone."""
    assert {name for name, job in JOBS.items() if not 0 < job["timeout-minutes"] <= 120} == set()
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "pages": {"pages": "write", "id-token": "write"},
        "index": {"id-token": "write"},
        "registry": {"contents": "read", "packages": "write"},
    }
    assert "github.ref == 'refs/heads/main'" in JOBS["pages"]["if"]
    assert JOBS["package"]["if"] == "github.ref_type == 'tag'"
    assert {JOBS[name]["needs"] for name in ("index", "registry")} == {"package"}
    assert {*JOBS["package"]["needs"]} == {"lint", "types", "tests", "images", "docs"}
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@(?:release/)?v\d+", name)] == []
