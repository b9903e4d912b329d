"""The script that scores hidden rows agrees with the library, which it does not import."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import calibration_scores as script
from benchmarks import calibration_tables as tables
from fedlas import metrics


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (800, 4), too sure of themselves, and targets."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(4, 0.5), size=800)
    targets = (rng.random((800, 1)) > truth.cumsum(axis=1)[:, :-1]).sum(axis=1)
    sharp = (truth + 1e-6) ** 1.5
    return sharp / sharp.sum(axis=1, keepdims=True), targets


def imported(module: ModuleType) -> set[str]:
    """The modules that one imports."""
    return {
        name
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }


def test_it_imports_nothing_of_what_it_scores() -> None:
    """The modules of the script are numpy, the standard library and its tables, and those of the tables no more."""
    ours = {name for module in (script, tables) for name in imported(module)}
    assert {name for name in ours if name.split(".")[0] in ("fedlas", "service", "worker", "benchmarks")} == {
        "benchmarks.calibration_tables"
    }


def test_scores_are_those_of_the_library(rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Accuracy, NLL, Brier and ECE are the library's, to the digits that are kept."""
    found = script.scores(*rows)
    for name in ("accuracy", "nll", "brier", "ece"):
        assert found[name] == pytest.approx(getattr(metrics, name)(*rows), abs=1e-5)


def test_intervals_are_those_of_the_library(rows: tuple[np.ndarray, np.ndarray]) -> None:
    """The paired bootstrap is the library's."""
    probs, targets = rows
    differences = script.row_scores(probs, targets, "brier") - script.row_scores(0.9 * probs + 0.025, targets, "brier")
    estimate = metrics.paired_bootstrap(differences, num_resamples=2000, seed=0)
    found = script.interval(differences)
    assert found == pytest.approx((estimate.value, estimate.low, estimate.high), rel=0.02)


def flattened(probs: np.ndarray) -> np.ndarray:
    """Probabilities that are as sure of themselves as they are right."""
    flat = probs ** (1 / 1.5)
    return flat / flat.sum(axis=1, keepdims=True)


@pytest.fixture
def base(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> Path:
    """The folder of a base whose peers answer as it does."""
    probs, targets = rows
    folder = tmp_path / "a-0"
    folder.mkdir()
    np.savez(folder / "hidden.npz", targets=targets)
    np.savez(folder / "logits.npz", targets=targets[:200])
    np.savez(folder / "peers.npz", uploaded=probs, temperature=probs, probmetrics=probs, netcal=probs)
    return folder


def leave(folder: Path, probs: np.ndarray, **told: object) -> None:
    """Write the files that a job leaves."""
    folder.mkdir(exist_ok=True)
    run = {"setting": "a", "seed": 0, "verdict": "post_hoc", "served": "post_hoc", "significant": True, **told}
    (folder / "run.json").write_text(json.dumps(run))
    np.savez(folder / "served.npz", served=probs)


def test_a_run_is_scored_from_its_files(base: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """A flattened served model beats an upload that is too sure; a run without its served rows is left out."""
    assert script.read_run(base) is None
    leave(base, flattened(rows[0]), section="networks")
    assert script.read_run(base, "forests") is None
    run = script.read_run(base)
    assert run is not None
    assert run["served_minus"]["temperature"]["nll"]["outcome"] == "better"
    assert not tables.harmed(run, "served")
    told = tables.report([run])
    assert "| 29 settings of networks: base + TS | 1 | 1/0/0 | 1/0/0 | 0, 0 |" in told
    confidences, right = rows[0].max(axis=1), rows[0].argmax(axis=1) == rows[1]
    gap, error = confidences.mean() - right.mean(), (confidences - right).std() * np.sqrt(1 / 200 + 1 / 800)
    assert gap > 2 * error
    assert f"| 29 settings of networks: uploaded | 1 | {100 * gap:+.2f} | {100 * gap:.2f} | 1 | 1, 0 |" in told


def test_what_is_within_the_margin_of_a_section_is_the_same() -> None:
    """0.0002 of Brier and 0.0005 of NLL count for nothing in the new tables, and elsewhere as their intervals say."""
    found = {kind: {"value": 4e-4, "low": 3e-4, "high": 5e-4, "outcome": "worse"} for kind in tables.PROPER}
    run = {"section": "new-tables-auto", "served_minus": {"temperature": found}}
    told = tables.beyond_margin(run)["served_minus"]["temperature"]
    assert {kind: told[kind]["outcome"] for kind in told} == {"brier": "worse", "nll": "same"}
    assert tables.beyond_margin(run | {"section": "networks"})["served_minus"]["temperature"] == found


def test_a_fine_tuned_run_meets_more_rivals(base: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """The served model of a job beside the base meets its peers and the post-hoc job."""
    probs, flat = rows[0], flattened(rows[0])
    leave(base, probs, section="networks")
    job = base.with_name("a-auto-0")
    leave(job, flat, section="networks-auto", verdict="trained", served="trained", job_seconds=12.0)
    run = script.read_run(job)
    assert run is not None
    outcomes = {rival: found["nll"]["outcome"] for rival, found in run["served_minus"].items()}
    assert outcomes == dict.fromkeys(("uploaded", "temperature", "probmetrics", "netcal", "post_hoc"), "better")
    told = tables.report([run])
    assert "| the same, fine-tuned: the job that trains nothing | 1 | 1/0/0 | 1/0/0 | 0, 0 |" in told
    assert "| the same, fine-tuned | 1 | +0.00 | +0.00 (a, fine-tuned) | none |" in told
    assert "| the same, fine-tuned | 1 | trained 1 | trained 1 | 12, 12 |  |" in told
