"""Exit codes: the table of verdicts and requirements."""

from __future__ import annotations

from typing import Any

import pytest

from fedlas.cli.failures import TABLE, Require, code_of_job, code_of_verdict

FOUND: dict[str, dict[str, Any]] = {
    "promoted, and shown": {"verdict": "trained", "shown": True},
    "promoted, not shown": {"verdict": "post_hoc", "shown": False},
    "unchanged": {"verdict": "unchanged", "shown": False},
    "undetermined": {"verdict": "undetermined", "shown": False},
}


@pytest.mark.parametrize("line", TABLE.splitlines()[2:])
def test_the_table_of_the_help_is_what_happens(line: str) -> None:
    """Every line of the table in the help gives the codes of `any`, `promoted` and `shown`, of a report as of a job."""
    *words, of_any, of_promoted, of_shown = line.split()
    codes, what = {"any": of_any, "promoted": of_promoted, "shown": of_shown}, " ".join(words)
    for require, code in codes.items():
        if what in FOUND:
            job = {**FOUND[what], "status": "succeeded", "dry_run": False}
            assert code_of_verdict(FOUND[what], Require(require)) == int(code)
        else:
            job = {"status": "failed", "error": {"user_error": "ours" not in what}}
        assert code_of_job(job, Require(require)) == int(code)


@pytest.mark.parametrize(("fails_with", "code"), [(None, 0), ("label_order", 1)])
def test_a_dry_run_fails_where_its_job_would(fails_with: str | None, code: int) -> None:
    """A plan that names the code with which the job would fail is the user's error."""
    job = {"status": "succeeded", "dry_run": True, "plan": {"fails_with": fails_with}}
    assert code_of_job(job, Require.any) == code
    assert code_of_job({"status": "cancelled"}, Require.any) == 1
