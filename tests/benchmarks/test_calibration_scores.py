"""The script that scores hidden rows agrees with the library, which it does not import."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration_scores as script
from fedlas import metrics


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (800, 4), too sure of themselves, and targets."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(4, 0.5), size=800)
    targets = (rng.random((800, 1)) > truth.cumsum(axis=1)[:, :-1]).sum(axis=1)
    sharp = (truth + 1e-6) ** 1.5
    return sharp / sharp.sum(axis=1, keepdims=True), targets


def test_it_imports_nothing_of_what_it_scores() -> None:
    """Its modules are numpy and the standard library."""
    tree = ast.parse(inspect.getsource(script))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported & {"fedlas", "service", "worker", "benchmarks"} == set()


def test_scores_are_those_of_the_library(rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Accuracy, NLL, Brier and ECE are the library's, to the digits that are kept."""
    found = script.scores(*rows)
    for name in ("accuracy", "nll", "brier", "ece"):
        assert found[name] == pytest.approx(getattr(metrics, name)(*rows), abs=1e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_the_library(rows: tuple[np.ndarray, np.ndarray], grouped: bool) -> None:
    """The paired bootstrap is the library's, of rows and of groups."""
    probs, targets = rows
    differences = script.row_scores(probs, targets, "brier") - script.row_scores(0.9 * probs + 0.025, targets, "brier")
    groups = np.arange(800) // 4 if grouped else None
    estimate = metrics.paired_bootstrap(differences, groups=groups, num_resamples=2000, seed=0)
    found = script.interval(differences, groups)
    assert found == pytest.approx((estimate.value, estimate.low, estimate.high), rel=0.02)


def test_a_run_is_scored_from_its_files(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """A flattened served model beats an upload that is too sure; a run without its served rows is left out."""
    probs, targets = rows
    np.savez(tmp_path / "hidden.npz", targets=targets)
    np.savez(tmp_path / "peers.npz", uploaded=probs, temperature=probs, probmetrics=probs, netcal=probs)
    (tmp_path / "run.json").write_text(
        '{"setting": "a", "seed": 0, "section": "networks", "verdict": "post_hoc", "served": "pool", "shown": true}'
    )
    assert script.read_run(tmp_path) is None
    flat = probs ** (1 / 1.5)
    np.savez(tmp_path / "served.npz", served=flat / flat.sum(axis=1, keepdims=True))
    run = script.read_run(tmp_path)
    assert run is not None
    assert run["served_minus"]["temperature"]["nll"]["outcome"] == "better"
    assert not script.harmed(run, "served")
    assert "| 29 settings of networks: base + TS | 1 | 1/0/0 | 1/0/0 | 0, 0 |" in script.report([run])
