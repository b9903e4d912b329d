"""A finalist that cannot be written gives way to the next at the end, and the report says so."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlas.calibration import Calibration, CalibrationOptions, calibrate
from fedlas.calibration.network import _race, _raced_again
from fedlas.calibration.preparation import Start, prepare
from fedlas.calibration.serving import Served, judge_and_write
from fedlas.calibrators import LogPool, TemperatureScaling
from fedlas.calibrators.stack import Columns, Stack
from fedlas.data import SPLITS, Dataset, align
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.importers.onnx.runtime import predict_file
from fedlas.metrics import nll
from fedlas.race.averaging import Ensemble
from fedlas.race.results import Finalist, RaceResult
from fedlas.report import report_html
from tests.helpers import cancelling_variance, gaussian_classes

#: Few draws: what they tell is not looked at here.
Raced = tuple[Start, RaceResult]
Rounding = tuple[Calibration, Dataset, Path]
OPTIONS = CalibrationOptions(method="post_hoc", noise_draws=1, num_resamples=50)


def opened(
    content: bytes, x: np.ndarray, targets: np.ndarray, splits: np.ndarray, folder: Path
) -> tuple[GraphClassifier, Dataset]:
    """The network and its dataset, which it has not seen."""
    (folder / "model.onnx").write_bytes(content)
    classifier = load_onnx(folder / "model.onnx")
    names = [f"class {k}" for k in range(classifier.num_classes)]
    dataset = Dataset({"x": x}, targets, names, True, splits.astype(np.int8), seen_by_model="no")
    count = classifier.num_classes
    return classifier, align(dataset, model_inputs=classifier.inputs, num_classes=count, class_names=names)


def overconfident(folder: Path) -> tuple[GraphClassifier, Dataset]:
    """A network that PyTorch and ONNX Runtime compute alike."""
    rows = gaussian_classes.world()
    splits = np.array([SPLITS.index(name) for name in rows["split"]])
    return opened(gaussian_classes.network(gaussian_classes.OVERCONFIDENT), rows["x"], rows["label"], splits, folder)


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Raced:
    """The finalists of the overconfident network."""
    start = prepare(*overconfident(tmp_path_factory.mktemp("raced")), OPTIONS)
    return start, _race(start)


def judged(raced: Raced, more: Mapping[str, Finalist]) -> Served:
    """The finalists with others before them, judged and written."""
    start, result = raced
    result = replace(result, finalists={**result.finalists, **more})
    return judge_and_write(start, result, partial(_raced_again, dataset=start.dataset))


def ensemble(uploaded: Finalist) -> Finalist:
    """Forty networks, each a little beside the uploaded one."""
    members = [copy.deepcopy(uploaded.classifier) for _ in range(40)]
    with torch.no_grad():
        for i, member in enumerate(members):
            for parameter in member.parameters():
                parameter.mul_(1 + 1e-4 * i)
    whole = Ensemble(members, [LogPool([TemperatureScaling(4.0)], [1 / len(members)])] * len(members))
    return replace(uploaded, classifier=whole, calibrator=TemperatureScaling(1.0))


def test_an_ensemble_too_large_for_a_file_gives_way(raced: Raced, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble is served where it fits; where it does not, the next one is, by verdict, file and sentences."""
    trained = {"trained": ensemble(raced[1].post_hoc)}
    fits = judged(raced, trained)
    assert (fits.verdict.finalist, fits.gave_way) == ("trained", ())
    monkeypatch.setattr("fedlas.export.graph.MAX_WEIGHT_BYTES", 6_000)
    found = judged(raced, trained)
    assert [(gone.finalist, gone.code) for gone in found.gave_way] == [("trained", "too_large_for_onnx")]
    served = found.verdict.finalist
    assert served is not None
    assert served == found.verdict.order[0] == fits.verdict.order[1]
    assert found.verdict.verdict == "post_hoc"
    assert found.written is not None
    assert found.written.finalist is found.finalist is raced[1].finalists[served]
    assert found.written.file.report.parity is not None
    assert found.verdict.sentences[0].startswith("A preferred model could not be written as a file. The")
    assert found.verdict.sentences[1].startswith("No file could be written of the fine-tuned model: the weights take")
    assert found.verdict.claims == fits.verdict.claims


def test_a_trained_network_that_overflows_is_not_judged(raced: Raced) -> None:
    """Answers that are no numbers on test rows do not lose the calibrators; the report says so."""
    broken = copy.deepcopy(raced[1].post_hoc.classifier)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(torch.inf)
    found = judged(raced, {"trained": replace(raced[1].post_hoc, classifier=broken)})
    assert [(gone.finalist, gone.code) for gone in found.gave_way] == [("trained", "non_finite_answers")]
    assert found.written is not None
    assert found.verdict.finalist == "post_hoc"
    assert found.notes[0].startswith("The fine-tuned model was not judged: the model answers row 0 of the split 'test'")


class Unwritable(TemperatureScaling):
    """A temperature whose nodes cannot be made."""

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        raise KeyError("no such node")


class Miswritten(TemperatureScaling):
    """A temperature whose nodes apply another one."""

    def stacked(self, stack: Stack, logits: Columns, features: str = "features") -> Columns:
        return TemperatureScaling(1.1 * self.temperature).stacked(stack, logits)


def test_whatever_stops_a_file_gives_way(raced: Raced, caplog: pytest.LogCaptureFixture) -> None:
    """A defect of ours is logged, and reported without its words; so does a file that computes something else."""

    broken = {"trained": Unwritable(4.0), "post_hoc": Miswritten(4.0)}
    more = {name: replace(raced[1].post_hoc, calibrator=calibrator) for name, calibrator in broken.items()}
    with caplog.at_level(logging.ERROR, "fedlas.calibration"):
        found = judged(raced, more)
    gone = [(one.finalist, one.code) for one in found.gave_way]
    assert gone == [("trained", "internal_error"), ("post_hoc", "parity")]
    assert "KeyError" in found.gave_way[0].reason
    assert "no such node" not in found.gave_way[0].reason
    assert "no such node" in caplog.text


@pytest.fixture(scope="module")
def rounding(tmp_path_factory: pytest.TempPathFactory) -> Rounding:
    """The calibration of an overconfident network that ONNX Runtime and PyTorch compute visibly apart."""
    folder = tmp_path_factory.mktemp("rounding")
    x, targets = cancelling_variance.rows(800, spread=0.0005)
    splits = np.repeat([SPLITS.index("calibration"), SPLITS.index("guarantee"), SPLITS.index("test")], [300, 100, 400])
    classifier, dataset = opened(cancelling_variance.network(confidence=4.0), x, targets, splits, folder)
    # So sure of itself that its inputs look multiplied.
    found = calibrate(classifier, dataset, replace(OPTIONS, accept_warnings=("input_scale",)))
    found.export(folder / "out.onnx", metadata={"made": "here"})
    return found, dataset, folder / "out.onnx"


def test_where_pytorch_computes_another_network_the_runtime_is_calibrated(rounding: Rounding) -> None:
    """ONNX Runtime's own answers are judged, promised and written, and the report says what gave way."""
    found, dataset, path = rounding
    report = found.report.as_dict()
    assert found.verdict.serves == "calibrated"
    assert report["verdict"] == found.verdict.verdict
    (x,), targets = dataset.select("test")[0].values(), dataset.select("test")[1]
    written = predict_file(path, [x])["probabilities"].astype(float)
    written /= written.sum(1, keepdims=True)
    assert nll(written, targets) == pytest.approx(report["metrics"]["calibrated"]["nll"]["value"], abs=1e-6)
    gone = report["written_file"]["gave_way"]
    assert {one["code"] for one in gone} == {"parity"}
    assert "in mean NLL" in gone[0]["reason"]
    assert report["written_file"]["parity"]["max_probability_error"] < 1e-5
    assert any("as ONNX Runtime computes them" in sentence for sentence in report["summary"])
    assert report["looks"]["before"] == 1
    assert found.guarantees is not None
    page = report_html(found.report)
    assert found.report.written_file is not None
    assert found.report.written_file.parity is not None
    assert found.report.written_file.parity.sentence in page
    assert gone[0]["reason"] in page


def test_nothing_is_written_where_the_upload_stays(tmp_path: Path) -> None:
    """Wrong calibration labels make a perfect network timid, test rows veto it: no file, no promise and no claim."""
    rows, rng = gaussian_classes.world(), np.random.default_rng(1)
    wrong = (rows["split"] == "calibration") & (rng.random(len(rows["label"])) < 0.6)
    rows["label"][wrong] = rng.integers(0, 4, wrong.sum())
    splits = np.array([SPLITS.index(name) for name in rows["split"]])
    given = opened(gaussian_classes.network(gaussian_classes.TRUTH), rows["x"], rows["label"], splits, tmp_path)
    found = calibrate(*given, OPTIONS)
    assert (found.finalist, found.written, found.typicality, found.guarantees) == (None,) * 4
    assert found.report.as_dict()["written_file"] is None
    with pytest.raises(ValueError, match="served as it came"):
        found.export(tmp_path / "out.onnx")
