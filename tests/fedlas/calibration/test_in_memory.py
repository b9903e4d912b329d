"""`fedlas.calibrate`: three lines in a notebook, and the same figures as a job of the service."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fedlas
from fedlas import LabelledRows, LabelledScores
from fedlas.calibration import CalibrationOptions
from fedlas.calibration.result import CalibrationResult
from fedlas.contract.report import Report
from fedlas.errors import BadDataset, ConversionError, FedLASError, Mismatch
from fedlas.importers import load_onnx
from tests.helpers.networks import Composed
from tests.helpers.plan_orders import an_order
from tests.helpers.races import Heard
from tests.helpers.refusals import refusal
from tests.helpers.uploads import digits, train
from worker.inside import calibration as worker_calibration

X, Y, _ = digits()
PARTS = {"train": slice(0, 400), "calibration": slice(400, 1000), "test": slice(1000, 1797)}
QUICK = CalibrationOptions(budget="20s", max_candidates=2, num_resamples=100, noise_draws=3)


def rows(split: str) -> tuple[Any, Any]:
    """Digits of one part."""
    return X[PARTS[split]], Y[PARTS[split]]


def nll(probs: Any, targets: Any) -> float:
    """The negative log-likelihood, by hand."""
    return float(-np.log(probs[np.arange(len(targets)), targets]).mean())


def runtime(path: Path, inputs: Any, output: str = "probabilities") -> Any:
    """An output by ONNX Runtime."""
    session = ort.InferenceSession(path)
    return session.run([output], {session.get_inputs()[0].name: inputs})[0]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """An overconfident network: its train rows have wrong labels, which it knows by heart."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return train(layers, (torch.from_numpy(X[:400]),), torch.from_numpy(Y[:400]), steps=150)


@pytest.fixture(scope="module")
def heard() -> Heard:
    """The events and warnings of the calibration of `result`."""
    return Heard()


@pytest.fixture(scope="module")
def result(network: nn.Module, heard: Heard) -> CalibrationResult:
    """The calibration of the network without training."""
    network.train()
    found = fedlas.calibrate(
        *(network, rows("train"), rows("calibration"), rows("test")), method="post_hoc", options=QUICK, observer=heard
    )
    assert network.training
    return found


def test_three_lines_calibrate_a_network(result: CalibrationResult) -> None:
    """The verdict is that the calibrator is better, and the report has the figures of the model that is returned."""
    assert (result.verdict, result.serves, result.significant) == ("post_hoc", "calibrated", True)
    assert isinstance(result.report, Report)
    inputs, targets = rows("test")
    before, after = (result.report.metrics[name]["nll"].value for name in ("uploaded", "calibrated"))
    assert after == pytest.approx(nll(result.model.predict_proba(inputs), targets), abs=1e-6)
    assert after < 0.9 * before
    assert result.report.seen_by_model == "train_split"
    assert repr(result) == "CalibrationResult(verdict='post_hoc', serves='calibrated', significant=True)"
    assert str(result).splitlines()[0] == "verdict: post_hoc"


def test_the_model_is_a_module_and_the_file_answers_as_it_does(result: CalibrationResult, tmp_path: Path) -> None:
    """Softmax of its output, `predict_proba`, and ONNX Runtime agree; the file can come back as an upload."""
    inputs, targets = rows("test")
    assert isinstance(result.model, nn.Module)
    probs = result.model.predict_proba(inputs)
    with torch.no_grad():
        direct = result.model(torch.from_numpy(inputs)).softmax(1).numpy()
    path = result.save(tmp_path / "new" / "m.onnx")
    np.testing.assert_allclose(direct, probs, atol=1e-6)
    np.testing.assert_allclose(runtime(path, inputs), probs, atol=1e-5)
    assert load_onnx(path).num_classes == 10
    assert (result.model.predict(inputs) == targets.astype(str)).mean() > 0.8
    np.testing.assert_allclose(result.model.predict_proba({"x": inputs[:3]}), probs[:3], atol=1e-6)


def test_the_report_is_shown_inline_and_saved(result: CalibrationResult, tmp_path: Path) -> None:
    """The page stands in a frame without scripts, so that no style leaks; the files hold the same figures."""
    shown = result._repr_html_()
    page = result.save_report(tmp_path / "r.html").read_text()
    assert re.fullmatch(r'<iframe [^<>]*sandbox=""[^<>]*></iframe>', shown)
    assert html.unescape(re.search(r'srcdoc="(.*)"', shown, re.DOTALL)[1]) == page  # type: ignore[index]
    document = json.loads(result.save_report(tmp_path / "r.json").read_text())
    assert document["metrics"]["calibrated"]["nll"]["value"] == result.report.metrics["calibrated"]["nll"].value
    for wrong in (result.save, result.save_report):
        with pytest.raises(ConversionError, match=r"saved as .*, not as 'r.txt'"):
            wrong(tmp_path / "r.txt")
        with pytest.raises(ConversionError, match="is a directory"):
            wrong(tmp_path)


def test_stages_are_told_in_order(result: CalibrationResult, heard: Heard) -> None:
    """Stages come in order; nothing is trained."""
    assert result.serves == "calibrated"
    assert heard.stages == ["evaluating", "training", "calibrating"]
    assert not heard.progress


@pytest.mark.slow
def test_a_job_of_the_service_gives_the_same_report(network: nn.Module, tmp_path: Path) -> None:
    """The worker's child and `fedlas.calibrate` call the same calibration: all figures are equal."""
    options = CalibrationOptions(method="post_hoc", budget=1, seed=3)
    mine = fedlas.calibrate(network, **{name: rows(name) for name in PARTS}, options=options)
    data = {"x": X, "label": Y, "split": np.repeat(list(PARTS), [part.stop - part.start for part in PARTS.values()])}
    model = fedlas.conversion.model_file(network, folder=tmp_path / "model", example=X[:8])
    order, files = an_order(tmp_path, data, model.path.read_bytes(), method="post_hoc", seed=3, budget={"minutes": 1})
    worker_calibration.calibrate(order, files, tmp_path, lambda _: None)
    theirs, ours = json.loads((tmp_path / "report.json").read_text()), mine.report.as_dict()
    figures = ("verdict", "serves", "significant", "summary", "metrics", "differences", "reliability", "gate", "parts")
    others = ("classes", "confidence", "calibration_test", "label_noise", "seen_by_model", "risk_coverage")
    for name in (*figures, *others):
        assert ours[name] == theirs[name], name
    answered = runtime(tmp_path / "calibrated.onnx", X[:50])
    np.testing.assert_allclose(answered, mine.model.predict_proba(X[:50]), atol=1e-5)


@pytest.mark.slow
def test_loaders_train_a_network(network: nn.Module) -> None:
    """Loaders give the same rows as arrays, a loss trains, and the module that is returned is the trained one."""

    def loader(split: str) -> Any:
        inputs, targets = rows(split)
        return DataLoader(TensorDataset(torch.from_numpy(inputs), torch.from_numpy(targets)), batch_size=100)

    found = fedlas.calibrate(network, loader("train"), loader("calibration"), loader("test"), options=QUICK)
    inputs, targets = rows("test")
    trained = found.report.metrics["calibrated"]["nll"].value
    assert trained == pytest.approx(nll(found.model.predict_proba(inputs), targets), abs=1e-5)
    assert [one.method for one in found.report.candidates if one.method != "post_hoc"]


def test_features_are_tapped_by_name(network: nn.Module, tmp_path: Path) -> None:
    """The submodule's output is what the file gives as features."""
    given = None, rows("calibration"), rows("test")
    found = fedlas.calibrate(fedlas.ModelSource(network, features="0"), *given, method="post_hoc", options=QUICK)
    with torch.no_grad():
        expected = network[0](torch.from_numpy(X[:5])).numpy()  # type: ignore[index]
    np.testing.assert_allclose(
        runtime(found.save(tmp_path / "m.onnx", outputs=["features"]), X[:5], "features"), expected, atol=1e-5
    )


def test_a_frame_with_drawn_splits_calibrates_a_pipeline(tmp_path: Path) -> None:
    """Labels that are words and columns by name; a model that has seen no row, as its owner says."""
    frame = pd.DataFrame(X, columns=[f"pixel{i}" for i in range(64)])
    words = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    estimator = LogisticRegression(C=300, max_iter=60, tol=1e-2).fit(frame[:400], words[Y[:400]])
    table = frame[400:].assign(digit=words[Y[400:]])
    told = LabelledRows(table, roles={"label": "digit"}, seen_by_model="no")
    found = fedlas.calibrate(estimator, told, method="post_hoc", options=QUICK)
    assert found.verdict == "post_hoc"
    assert (found.model.predict(frame[frame.columns[::-1]][:400]) == words[Y[:400]]).mean() > 0.8
    path = found.save(tmp_path / "m.onnx")
    np.testing.assert_allclose(runtime(path, X[:50]), found.model.predict_proba(frame[:50]), atol=1e-5)


def test_an_estimator_that_cannot_be_a_file_has_its_scores_calibrated(tmp_path: Path) -> None:
    """The result wraps the estimator; the note says why, and the file is the calibrator."""

    class Own(HistGradientBoostingClassifier):
        """No converter knows it."""

    estimator = Own(max_iter=10, random_state=0).fit(*rows("train"))
    found = fedlas.calibrate(estimator, rows("train"), rows("calibration"), rows("test"))
    inputs, targets = rows("test")
    before, after = (found.report.metrics[name]["nll"].value for name in ("uploaded", "calibrated"))
    assert before == pytest.approx(nll(estimator.predict_proba(inputs), targets), abs=1e-5)
    assert after == pytest.approx(nll(found.model.predict_proba(inputs), targets), abs=1e-5)
    assert after < before
    assert found.model.model is estimator
    assert found.notes[0].startswith("Own was not written as a file")
    assert ort.InferenceSession(found.save(tmp_path / "c.onnx")).get_inputs()[0].name == "uncalibrated_probabilities"


def test_a_model_that_knows_its_rows_by_heart_is_not_shown_to_be_better() -> None:
    """Drawn rows need a word on what the model has seen; where that is unknown the estimator comes back as it is."""

    class Own(RandomForestClassifier):
        """No converter knows it."""

    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(600, 5)), rng.integers(0, 2, 600)
    estimator = Own(30, random_state=0).fit(noise, labels)
    for said in (None, "train_split"):
        with refusal(BadDataset, "provenance_needed", r"say seen_by_model=no .* if it saw none"):
            fedlas.calibrate(estimator, LabelledRows((noise, labels), seen_by_model=said))
    found = fedlas.calibrate(estimator, LabelledRows((noise, labels), seen_by_model="unknown"))
    assert (found.verdict, found.serves, found.significant) == ("undetermined", "uploaded", False)
    np.testing.assert_allclose(found.model.predict_proba(noise), estimator.predict_proba(noise), atol=1e-6)
    with pytest.raises(ConversionError, match="stays as it is"):
        found.save("nothing.onnx")


@pytest.mark.slow
def test_a_module_that_cannot_be_exported_has_its_scores_calibrated(network: nn.Module) -> None:
    """Nothing is trained, and the module that is returned has the calibrator behind it."""
    # No exporter can follow a forward pass through Python lists.
    listing = Composed(network, lambda y: torch.tensor([[float(score) for score in row] for row in y.tolist()]))
    found = fedlas.calibrate(listing, None, rows("calibration"), rows("test"))
    inputs, targets = rows("test")
    assert found.verdict == "post_hoc"
    after = found.report.metrics["calibrated"]["nll"].value
    assert after == pytest.approx(nll(found.model.predict_proba(inputs), targets), abs=1e-5)
    logits = found.model(torch.from_numpy(inputs[:4]))
    np.testing.assert_allclose(logits.softmax(1), found.model.predict_proba(inputs[:4]), atol=1e-5)


def test_scores_and_labels_alone_are_enough(network: nn.Module) -> None:
    """Logits, or probabilities by split: both forms judge the same rows and agree in kind."""
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(X)).numpy()
    parts = {name: part for name, part in PARTS.items() if name != "train"}
    by_split = fedlas.calibrate(
        LabelledScores(
            logits={name: logits[part] for name, part in parts.items()},
            labels={name: Y[part] for name, part in parts.items()},
        )
    )
    assert by_split.verdict == "post_hoc"
    before = by_split.report.metrics["uploaded"]["nll"].value
    test = PARTS["test"]
    assert before == pytest.approx(nll(torch.from_numpy(logits[test]).double().softmax(1).numpy(), Y[test]), rel=1e-5)
    drawn = fedlas.calibrate(
        LabelledScores(probabilities=torch.from_numpy(logits).softmax(1), labels=torch.from_numpy(Y))
    )
    assert drawn.report.num_test_rows == pytest.approx(len(Y) / 2, abs=10)
    assert drawn.model.predict_proba(torch.from_numpy(logits[:3]).softmax(1)).sum(1) == pytest.approx(np.ones(3))


def test_columns_of_scores_have_the_names_of_a_frame() -> None:
    """Labels that are words are matched by them in whatever order; without names they are refused."""
    rng = np.random.default_rng(0)
    names = np.array(["zebra", "ant", "mouse"])
    truth = 2 * rng.normal(size=(600, 3))
    words = names[(truth + rng.gumbel(size=truth.shape)).argmax(axis=1)]
    found = fedlas.calibrate(LabelledScores(logits=pd.DataFrame(3 * truth, columns=names), labels=words))
    assert found.model.class_names == list(names)
    assert found.report.metrics["uploaded"]["accuracy"].value > 0.7
    with pytest.raises(ConversionError, match="give class_names="):
        fedlas.calibrate(LabelledScores(logits=3 * truth, labels=words))
    with pytest.raises(ConversionError, match="the columns zebra, ant, mouse"):
        frame, order = pd.DataFrame(truth, columns=names), ["ant", "mouse", "zebra"]
        fedlas.calibrate(LabelledScores(logits=frame, labels=words, class_names=order))


def test_files_are_calibrated_without_a_server(network: nn.Module, tmp_path: Path) -> None:
    """A path of a model and one of a dataset; an unchanged model is saved as it came."""
    model = fedlas.conversion.model_file(network, folder=tmp_path / "m", example=X[:8]).path
    data = tmp_path / "rows.npz"
    np.savez(data, x=X, y=Y)
    with pytest.raises(BadDataset, match=r"say seen_by_model=no .* if it saw none"):
        fedlas.calibrate(str(model), data, method="temperature", options=QUICK)
    unknown = LabelledRows(data, seen_by_model="unknown")
    found = fedlas.calibrate(str(model), unknown, method="temperature", options=QUICK)
    assert found.verdict == "undetermined"
    assert found.save(tmp_path / "same.onnx").read_bytes() == model.read_bytes()
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(X[:5])).softmax(1).numpy()
    np.testing.assert_allclose(found.model.predict_proba(X[:5]), expected, atol=1e-5)


class Difference(nn.Module):
    """Two inputs of one shape, in an order that matters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner(first - second)
        return scores


def test_inputs_by_name_are_in_the_order_of_forward(network: nn.Module) -> None:
    """A mapping in another order changes nothing: the module that is returned is called as the one that was given."""
    model, zero = Difference(network), np.zeros_like(X)
    kept = {name: part for name, part in PARTS.items() if name != "train"}
    parts = {name: {"second": zero[part], "label": Y[part], "first": X[part]} for name, part in kept.items()}
    found = fedlas.calibrate(model, **parts, method="temperature", options=QUICK)
    rows_, nothing = torch.from_numpy(X[:50]), torch.zeros(50, 64)
    with torch.no_grad():
        expected = model(rows_, nothing).argmax(1)
        np.testing.assert_array_equal(found.model(rows_, nothing).argmax(1), expected)
    np.testing.assert_array_equal(found.model.predict_proba((X[:50], zero[:50])).argmax(1), expected)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"model": None, "train": rows("train")}, ConversionError, "a model is a path"),
        ({"model": nn.Linear(64, 10)}, ConversionError, "given were none"),
        ({"model": nn.Linear(64, 10), "train": rows("train"), "test": rows("test")}, ConversionError, "train, test"),
        ({"model": nn.Linear(64, 10), "train": rows("train")}, BadDataset, "say seen_by_model=no"),
        ({"model": "no.onnx", "train": "no.npz"}, ConversionError, "no model 'no.onnx'"),
        (
            {"model": nn.Linear(64, 10), "calibration": "a.npz", "test": "b.npz"},
            ConversionError,
            "calibration is a path",
        ),
        (
            {"model": nn.Linear(64, 10), "train": LabelledRows(rows("train")), "calibration": 0, "test": 0},
            ConversionError,
            "or LabelledRows, which are all rows",
        ),
        ({"model": LabelledScores(logits=X[:, :10], labels=Y), "train": 0}, ConversionError, "not both"),
        ({"model": nn.Linear(64, 5), "calibration": rows("calibration"), "test": rows("test")}, Mismatch, "5 classes"),
        (
            {"model": nn.Linear(64, 10), "calibration": (X[:5], Y[:5]), "test": rows("test")},
            BadDataset,
            "'calibration' has 5 rows",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_a_sentence(arguments: Any, kind: type[FedLASError], words: str) -> None:
    """Errors say what is missing and what to give."""
    with pytest.raises(kind) as raised:
        fedlas.calibrate(**arguments)
    assert words in str(raised.value)


def test_scores_without_labels_are_refused() -> None:
    """One kind of scores with labels, and nothing else, is what can be calibrated."""
    for given in ({"logits": X}, {"labels": Y}, {"logits": X, "probabilities": X, "labels": Y}):
        with pytest.raises(ConversionError, match="one of them, with labels="):
            LabelledScores(**given)
