"""Calibrators from scores alone: what is fitted, judged and promised, and whether the file does what was reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from fedlas.contract.options import ScoresOptions
from fedlas.errors import BadDataset, Mismatch
from fedlas.export.scores_graph import as_logits
from fedlas.guarantees import Guarantees
from tests.helpers import uploads as made
from tests.helpers.drawn_rows import drawn_scores, plain_softmax
from worker.documents import ScoresOrder
from worker.inside.calibration import fit_scores

Json = dict[str, Any]
Array = NDArray[Any]


def fit(folder: Path, content: bytes, *, looks_before: int = 0, **options: Any) -> Json:
    """Fit on what was sent."""
    (folder / "scores").write_bytes(content)
    ordered = ScoresOptions.model_validate({"method": "auto", **options})
    order = ScoresOrder(sha256="s" * 64, options=ordered, looks_before=looks_before)
    return fit_scores(order, {"scores": folder / "scores"}, folder, lambda _: None).stored()


def run(folder: Path, rows: Array) -> tuple[Array, Array]:
    """The answers of the file alone, in a plain ONNX Runtime."""
    session = ort.InferenceSession(str(folder / "calibrator.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert [output.name for output in session.get_outputs()] == ["probabilities", "confidence"]
    probabilities, confidence = session.run(None, {given.name: rows.astype(np.float32)})
    return probabilities, confidence


def test_probabilities_of_zero_and_one_are_allowed(tmp_path: Path) -> None:
    """A probability of exactly 0 counts as float32's smallest: its logarithm is finite, and no row is refused."""
    probabilities = np.array([[1.0, 0.0], [0.25, 0.75]] * 20)
    logits = as_logits("probabilities", probabilities.astype(np.float32))
    assert logits[0].tolist() == [0.0, pytest.approx(-87.336545)]
    np.testing.assert_allclose(plain_softmax(logits), probabilities, atol=1e-7)
    assert fit(tmp_path, made.npz(probabilities=probabilities, labels=[0, 1] * 20))["profile"]["num_samples"] == 40


def test_the_temperature_is_the_best_of_the_calibration_rows(tmp_path: Path) -> None:
    """Found by an optimiser of somebody else's on the calibration rows alone; the test rows have no say in it."""
    logits, targets = drawn_scores(1200)
    split = np.where(np.arange(1200) % 3 == 0, "calibration", np.where(np.arange(1200) % 3 == 1, "test", "train"))
    result = fit(tmp_path, made.npz(logits=logits, labels=targets, split=split), method="temperature")
    chosen = split == "calibration"

    def loss(log_temperature: float) -> float:
        probs = plain_softmax(logits[chosen] / np.exp(log_temperature))
        return float(log_loss(targets[chosen], probs, labels=range(4)))

    best = float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x))
    assert result["parameters"]["temperature"] == pytest.approx(best, rel=1e-4)
    assert (result["excerpt"]["num_calibration_rows"], result["excerpt"]["num_test_rows"]) == (400, 400)
    assert any("400 rows of the split train" in line for line in result["excerpt"]["summary"])


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_the_file_alone_gives_the_reported_figures(tmp_path: Path, kind: str) -> None:
    """ONNX Runtime on the test rows gives probabilities whose log loss and accuracy are those of the report."""
    logits, targets = drawn_scores(1000)
    split = np.where(np.arange(1000) % 2 == 0, "calibration", "test")
    sent = logits if kind == "logits" else plain_softmax(logits).astype(np.float32)
    result = fit(tmp_path, made.npz(**{kind: sent}, labels=targets, split=split))
    probabilities, confidence = run(tmp_path, sent)
    np.testing.assert_allclose(confidence, probabilities.max(axis=1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    judged = split == "test"
    shown = result["excerpt"]["metrics"]
    for name, given in (("uploaded", plain_softmax(logits)), ("calibrated", plain_softmax(np.log(probabilities)))):
        expected = log_loss(targets[judged], given[judged], labels=range(4))
        assert shown[name]["nll"]["value"] == pytest.approx(expected, rel=1e-4)
        assert shown[name]["accuracy"]["value"] == pytest.approx((given.argmax(axis=1) == targets)[judged].mean())
    if result["method"] == "temperature":
        scale = result["parameters"]["temperature"]
        np.testing.assert_allclose(probabilities, plain_softmax(logits / scale), atol=1e-5)


def test_overconfident_scores_are_mended_and_calibrated_ones_gain_nothing(tmp_path: Path) -> None:
    """Logits three times too large are shown to gain; logits that were right already are shown to gain nothing."""
    logits, targets = drawn_scores(3000)
    mended = fit(tmp_path, made.npz(logits=logits, labels=targets))["excerpt"]
    assert (mended["verdict"], mended["serves"]) == ("post_hoc", "calibrated")
    assert mended["differences"]["calibrated_minus_uploaded"]["brier"]["high"] < 0
    right, targets = drawn_scores(3000, sharpened=1.0)
    same = fit(tmp_path, made.npz(logits=right, labels=targets))["excerpt"]
    assert not same["significant"]
    assert abs(same["differences"]["calibrated_minus_uploaded"]["brier"]["value"]) < 0.01
    for report in (mended, same):
        assert any("not trained on any of these rows" in line for line in report["summary"])


def test_halves_are_drawn_once_and_by_class(tmp_path: Path) -> None:
    """A file is always halved one way, half of each class, and groups stay together."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], [900, 100])
    logits = rng.normal(size=(1000, 2)).astype(np.float32)
    logits[np.arange(1000), targets] += 1
    content = made.npz(logits=logits, labels=targets)
    first, again = fit(tmp_path, content), fit(tmp_path, content)
    assert first == again
    assert (first["excerpt"]["num_calibration_rows"], first["excerpt"]["num_test_rows"]) == (500, 500)
    report = fit(tmp_path, made.npz(logits=logits, labels=targets, group=np.arange(1000) % 50))["excerpt"]
    assert report["num_calibration_rows"] % 20 == report["num_test_rows"] % 20 == 0


def test_named_methods(tmp_path: Path) -> None:
    """A method by name is that method; one that does not exist or does not suit is refused with the choice."""
    logits, targets = drawn_scores(600, 2)
    binary = made.npz(logits=logits, labels=targets)
    found = fit(tmp_path, binary, method="affine")
    assert (found["method"], found["excerpt"]["methods"]["tried"]) == ("affine", ["affine"])
    with pytest.raises(BadDataset) as caught:
        fit(tmp_path, binary, method="magic")
    assert (caught.value.code, "temperature" in caught.value.message) == ("unknown_method", True)
    with pytest.raises(BadDataset) as caught:
        fit(tmp_path, made.npz(logits=drawn_scores(600, 4)[0], labels=drawn_scores(600, 4)[1]), method="affine")
    assert caught.value.code == "unsuitable_method"


@pytest.mark.parametrize("name", ["huge", "perfect", "useless", "a thousand classes", "rare"])
def test_extremes_get_a_true_report(tmp_path: Path, name: str) -> None:
    """Logits of ±1e4, perfect and useless models, many classes and few positives: figures without NaN or null."""
    rng = np.random.default_rng(0)
    rows, classes = (400, 1000) if name == "a thousand classes" else (1000, 2 if name == "rare" else 4)
    targets = rng.integers(0, classes, rows)
    if name == "rare":
        targets = (np.arange(rows) % 250 == 0).astype(int)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), targets] += {"useless": 0, "perfect": 50}.get(name, 2)
    if name == "huge":
        logits *= 1e4 / np.abs(logits).max()
    accepted = ["worse_than_frequencies"] if name == "useless" else []
    result = fit(tmp_path, made.npz(logits=logits.astype(np.float32), labels=targets), accept_warnings=accepted)
    text = json.dumps(result, allow_nan=False)
    for figures in result["excerpt"]["metrics"].values():
        assert None not in [value for metric in figures.values() for value in metric.values()], text[:2000]
    probabilities, _ = run(tmp_path, logits)
    assert np.isfinite(probabilities).all()
    if name == "useless":
        assert result["excerpt"]["metrics"]["calibrated"]["nll"]["value"] == pytest.approx(np.log(4), abs=0.02)


def test_the_child_loads_no_pytorch(tmp_path: Path) -> None:
    """The step of the child, in a fresh interpreter and with everything that it writes, never imports PyTorch."""
    logits, targets = drawn_scores(300)
    (tmp_path / "scores").write_bytes(made.npz(logits=logits, labels=targets))
    code = """
import sys
from pathlib import Path
from worker.documents import ScoresOptions, ScoresOrder
from worker.inside.child import answer_to
folder = Path(sys.argv[1])
order = ScoresOrder(sha256="s", options=ScoresOptions(method="auto"))
answer = answer_to(order, {"scores": folder / "scores"}, folder, print)
assert answer.startswith('{"result": '), answer
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("calibrator.onnx", "report.json", "report.html", "reliability.svg"):
        assert (tmp_path / name).stat().st_size > 0


def test_a_guard_leaves_the_calibrator_that_keeps_every_label(tmp_path: Path) -> None:
    """Where moving labels is not shown to help, the calibrator that keeps them is judged, and is what is written."""
    logits, targets = drawn_scores(2000, 10)
    logits = logits + np.linspace(0, 2, 10, dtype=np.float32)  # enough for offsets to be chosen
    result = fit(tmp_path, made.npz(logits=logits, labels=targets))
    finalists = {claim["finalist"] for claim in result["excerpt"]["gate"]["claims"]}
    served = result["excerpt"]["gate"]["finalist"]
    probabilities, _ = run(tmp_path, logits)
    moved = (probabilities.argmax(axis=1) != logits.argmax(axis=1)).any()
    assert finalists == {"same_labels", "post_hoc"}
    assert moved == (served != "same_labels")


def test_looks_that_came_before_raise_the_bar(tmp_path: Path) -> None:
    """The gate may spend less on a fifth look, and the report says that it is one."""
    logits, targets = drawn_scores(400)
    first, fifth = (fit(tmp_path, made.npz(logits=logits, labels=targets), looks_before=n)["excerpt"] for n in (0, 4))
    assert fifth["gate"]["level"] < first["gate"]["level"] / 10
    assert any("judged 4 times before" in line for line in fifth["summary"])


def test_what_guarantee_rows_promise_holds_for_the_file(tmp_path: Path) -> None:
    """The promised share of wrong answers, by the threshold in the file's metadata, is kept on rows of its own."""
    logits, targets = drawn_scores(6000)
    split = np.array(["calibration", "guarantee", "test"] * 2000)
    result = fit(tmp_path, made.npz(logits=logits, labels=targets, split=split))
    session = ort.InferenceSession(str(tmp_path / "calibrator.onnx"), providers=["CPUExecutionProvider"])
    promised = Guarantees.from_dict(json.loads(session.get_modelmeta().custom_metadata_map["guarantees"]))
    probabilities, confidence = run(tmp_path, logits[split == "test"])
    answered = confidence >= promised.threshold_for(0.15)
    wrong = probabilities.argmax(axis=1) != targets[split == "test"]
    assert 0.1 < answered.mean() < 1
    assert wrong[answered].mean() <= 0.15
    assert result["excerpt"]["guarantees"]["num_rows"] == 2000


def test_the_file_answers_for_the_class_priors(tmp_path: Path) -> None:
    """The file answers for the job's priors, and with its input for any others; classes that do not fit are refused."""
    logits, targets = drawn_scores(1000, 3)
    content = made.npz(logits=logits, labels=targets)
    assert fit(tmp_path, content)["excerpt"]["class_priors"]["shifted"] is False
    plain, _ = run(tmp_path, logits)
    wanted = {"0": 0.01, "1": 0.01, "2": 0.98}
    result = fit(tmp_path, content, class_priors=wanted)
    found = result["excerpt"]["class_priors"]
    assert (found["shifted"], found["default"]) == (True, wanted)
    shares = np.array(list(found["shares"].values()))
    expected = plain * np.array([0.01, 0.01, 0.98]) / shares
    shifted, confidence = run(tmp_path, logits)
    np.testing.assert_allclose(shifted, expected / expected.sum(1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(confidence, shifted.max(1))
    suffix = bytes.fromhex(result["profile"]["priors_input"]["suffix"])
    with_input = (tmp_path / "calibrator.onnx").read_bytes() + suffix
    session = ort.InferenceSession(with_input, providers=["CPUExecutionProvider"])
    (back,) = session.run(["probabilities"], {"logits": logits, "class_priors": shares.astype(np.float32)})
    np.testing.assert_allclose(back, plain, atol=1e-6)
    with pytest.raises(Mismatch, match="'1', '2' missing"):
        fit(tmp_path, content, class_priors={"0": 1.0})


def test_weights_thin_the_rows_that_judge(tmp_path: Path) -> None:
    """By sampling weights a sample of the population judges and all calibration rows fit; the summary says how many."""
    logits, targets = drawn_scores(2000)
    weight = np.where(np.arange(2000) % 2 == 0, 1.0, 4.0)
    excerpt = fit(tmp_path, made.npz(logits=logits, labels=targets, weight=weight))["excerpt"]
    assert 500 < excerpt["num_test_rows"] < 750
    assert excerpt["num_calibration_rows"] == 1000
    assert any("as a sample of the population" in line for line in excerpt["summary"])
