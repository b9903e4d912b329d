"""How often a job sends each row through each network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fedlas.classifier import Classifier
from fedlas.preconditions.examination import Examined
from tests.helpers.gaussian_classes import CENTRES, network, words
from tests.helpers.plan_orders import an_order
from worker.inside.calibration import calibrate

#: Test rows that pass through the served network again: they prove that the exported file gives its probabilities.
PROVEN = 256
#: Calibration rows on which multiplications are counted, once for the cost limit and once for an average.
COUNTED = 8
SPLITS = {"train": 1500, "calibration": 300, "guarantee": 80, "test": 400}
#: A body of two features, in which no calibrator finds what was lost: a network that is trained as a whole beats it.
_RNG = np.random.default_rng(0)
NARROW = network((_RNG.normal(size=(8, 2)), np.ones(2)), (_RNG.normal(size=(2, 4)), np.zeros(4)))
Passes = Counter[tuple[int, str]]


@contextmanager
def counted(rows: dict[str, Any]) -> Iterator[Passes]:
    """Rows through each network in evaluation, by (network by appearance, split), 0 the upload; trials do not count."""
    split_of = {row.tobytes(): str(split) for row, split in zip(rows["x"], rows["split"], strict=True)}
    passes: Passes = Counter()
    networks: list[nn.Module] = []
    trying = False

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not isinstance(module, Classifier) or module.training or trying:
            return
        if not any(module is known for known in networks):
            networks.append(module)
        number = next(i for i, known in enumerate(networks) if module is known)
        passes.update((number, split_of[np.ascontiguousarray(row).tobytes()]) for row in inputs[0].cpu().numpy())

    def answers(examined: Examined, inputs: Sequence[Any]) -> Any:
        nonlocal trying
        trying = True
        try:
            return tried(examined, inputs)
        finally:
            trying = False

    handle, tried = register_module_forward_pre_hook(note), Examined.answers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Examined, "answers", answers)
        yield passes
    handle.remove()


def passes_of(folder: Path, **request: Any) -> tuple[str, Passes]:
    """The verdict of a whole job, and its passes."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, sum(SPLITS.values()))
    inputs = (CENTRES[targets] + rng.normal(size=(len(targets), 8))).astype(np.float32)
    rows = {"x": inputs, "label": targets, "split": words(**SPLITS)}
    # An untrained network may be worse than guessing, as one whose labels are permuted.
    more = {"budget": {"minutes": 10.0, "candidates": 2}, "accept_warnings": ["label_order"]}
    order, files = an_order(folder, rows, NARROW, **more, **request)
    with counted(rows) as passes:
        verdict = calibrate(order, files, folder, lambda _: None).verdict
    return verdict, passes


def test_a_post_hoc_job_passes_once_over_every_split(tmp_path: Path) -> None:
    """Expected accuracy, calibrators, verdict, guarantees and typicality are computed from one pass per split."""
    verdict, passes = passes_of(tmp_path, method="post_hoc", expected_accuracy=0.15)
    assert verdict == "post_hoc"
    assert passes == {(0, "calibration"): 300, (0, "guarantee"): 80, (0, "test"): 400 + PROVEN}


def test_a_refit_passes_once_over_the_splits_that_name_and_judge_it(tmp_path: Path) -> None:
    """Fold networks see their fold, the refit all calibration and judging rows, each once; the upload no train row."""
    training = {"scope": "all", "epochs": 10, "learning_rate": 0.05}
    verdict, passes = passes_of(tmp_path, method="cross_entropy", hyperparameters=training, max_cost_factor=1.0)
    assert verdict == "trained"
    uploaded = {(0, "calibration"): 300, (0, "test"): 400}
    folds = {(number, "calibration"): 100 for number in range(1, 7)}  # of two candidates
    assert passes == uploaded | folds | {(7, "calibration"): 300, (7, "guarantee"): 80, (7, "test"): 400 + PROVEN}


def test_a_trained_head_reads_the_features_of_the_uploaded_network(tmp_path: Path) -> None:
    """Calibration and test rows pass through the shared body once, whatever number of heads is trained on it."""
    _, passes = passes_of(tmp_path, method="fedlas", hyperparameters={"scope": "head", "epochs": 5})
    assert {network for network, split in passes if split in ("train", "calibration")} == {0}
    assert passes[0, "train"] == 1500
    assert 300 <= passes[0, "calibration"] <= 300 + COUNTED
    assert passes[0, "test"] <= 400 + PROVEN
