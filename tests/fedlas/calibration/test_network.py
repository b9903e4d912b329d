"""A calibration from arrays, as a notebook does it: what a job does, without a service."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from fedlas.calibration import CalibrationOptions, ReportHeader, calibrate
from fedlas.calibration.preparation import notices_of, prepare
from fedlas.contract.profiles import Notice
from fedlas.data import SPLITS, Dataset, align
from fedlas.errors import BaselineMismatch, Mismatch
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.race.race import run_race
from fedlas.race.record import FolderJournal
from fedlas.race.results import RaceResult
from fedlas.training.checkpoints import read_state, write_state
from tests.helpers.gaussian_classes import OVERCONFIDENT, network, world
from tests.helpers.races import Heard
from tests.helpers.refusals import refusal


def given(folder: Path) -> tuple[GraphClassifier, Dataset]:
    """An overconfident network, and rows that it has not seen."""
    (folder / "model.onnx").write_bytes(network(OVERCONFIDENT))
    classifier = load_onnx(folder / "model.onnx")
    rows = world()
    splits = np.array([SPLITS.index(name) for name in rows["split"]], np.int8)
    names = list("abcd")
    dataset = Dataset({"x": rows["x"]}, rows["label"], names, True, splits, seen_by_model="no")
    return classifier, align(dataset, model_inputs=classifier.inputs, num_classes=4, class_names=names)


def test_a_notebook_calibrates_judges_and_exports(tmp_path: Path) -> None:
    """The verdict, its report and the file belong together, and stages and request are reported as they were."""
    classifier, dataset = given(tmp_path)
    heard = Heard()
    options = CalibrationOptions(method="post_hoc", evaluations_before=2)
    found = calibrate(classifier, dataset, options, header=ReportHeader({"asked": "for little"}), observer=heard)
    report = found.report.as_dict()
    assert found.verdict.verdict == report["verdict"] == "post_hoc"
    assert (report["looks"]["before"], report["recipe"]["request"]) == (2, {"asked": "for little"})
    assert heard.stages == ["evaluating", "training", "calibrating"]
    found.export(tmp_path / "calibrated.onnx", metadata={"made": "here"})
    session = ort.InferenceSession(tmp_path / "calibrated.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["made"] == "here"
    test, targets = dataset.select("test")
    (probs,) = session.run(["probabilities"], {classifier.inputs[0].name: next(iter(test.values()))})
    nll = -np.log(probs[np.arange(len(targets)), targets]).mean()
    assert nll == pytest.approx(report["metrics"]["calibrated"]["nll"]["value"], rel=1e-4)
    assert found.guarantees is not None
    assert report["class_priors"]["shifted"] is False


def test_fits_use_one_thread_of_blas_and_leave_the_program_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While calibrators are fitted BLAS has one thread, however many the program allows; then it has these again."""

    def threads() -> set[int]:
        return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}

    met: list[set[int]] = []

    def watched(*given: Any, **options: Any) -> RaceResult:
        met.append(threads())
        return run_race(*given, **options)

    monkeypatch.setattr("fedlas.calibration.network.run_race", watched)
    with threadpool_limits(limits=2, user_api="blas"):
        calibrate(*given(tmp_path), CalibrationOptions(method="post_hoc"))
        after = threads()
    assert (met, after) == ([{1}], {2})


def test_priors_of_the_world_shift_the_file_and_nothing_that_is_judged(tmp_path: Path) -> None:
    """The file answers for the job's priors, and with its input for others; the rows are judged as they are."""
    classifier, dataset = given(tmp_path)
    wanted = {"d": 0.7, "a": 0.1, "b": 0.1, "c": 0.1}
    plain = calibrate(classifier, dataset, CalibrationOptions(method="post_hoc"))
    shifted = calibrate(classifier, dataset, CalibrationOptions(method="post_hoc", class_priors=wanted))
    before, after = plain.report.as_dict(), shifted.report.as_dict()
    assert (before["metrics"], before["decisions"]) == (after["metrics"], after["decisions"])
    assert after["class_priors"]["default"] == pytest.approx(wanted)
    assert any("class priors of the request" in sentence for sentence in after["summary"])
    test, _ = dataset.select("test")
    rows = {classifier.inputs[0].name: next(iter(test.values()))}
    probs: dict[str, np.ndarray] = {}
    for name, found in (("plain", plain), ("shifted", shifted)):
        more = found.export(tmp_path / f"{name}.onnx").priors_input
        session = ort.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (probs[name],) = session.run(["probabilities"], rows)
    shares = np.array(list(before["class_priors"]["shares"].values()))
    np.testing.assert_allclose(shares, np.bincount(dataset.select("calibration")[1]) / len(dataset.rows("calibration")))
    expected = probs["plain"] * np.array([0.1, 0.1, 0.1, 0.7]) / shares
    np.testing.assert_allclose(probs["shifted"], expected / expected.sum(1, keepdims=True), atol=1e-6)
    session = ort.InferenceSession((tmp_path / "shifted.onnx").read_bytes() + more, providers=["CPUExecutionProvider"])
    (back,) = session.run(["probabilities"], {**rows, "class_priors": shares.astype(np.float32)})
    np.testing.assert_allclose(back, probs["plain"], atol=1e-6)
    told = session.get_modelmeta().custom_metadata_map
    thresholds = np.array(list(json.loads(told["decisions"])["thresholds"].values()))
    assert plain.deployment is not None
    np.testing.assert_array_equal(
        (probs["shifted"] / thresholds).argmax(1), (probs["plain"] / plain.deployment.thresholds).argmax(1)
    )


Priors = dict[str, float]


@pytest.mark.parametrize(
    ("priors", "words"),
    [
        ({"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}, "above 0"),
        ({"a": 0.5, "b": 0.3, "c": 0.1, "e": 0.1}, "'e'"),
        ({"a": 0.5, "b": 0.5}, "'c', 'd' missing"),
        ({"a": 0.5, "b": 0.3, "c": 0.1, "d": 0.2}, "sum to 1"),
        ({"a": 0.5, "b": 0.3, "c": 0.2, "d": float("nan")}, "above 0"),
    ],
)
def test_priors_that_are_none_are_refused_before_training(priors: Priors, words: str, tmp_path: Path) -> None:
    """The message names what is wrong with them."""
    classifier, dataset = given(tmp_path)
    with refusal(Mismatch, "class_priors_mismatch", words):
        calibrate(classifier, dataset, CalibrationOptions(method="post_hoc", class_priors=priors))


def test_a_network_that_is_not_what_its_owner_expects_is_refused(tmp_path: Path) -> None:
    """Before anything is trained, an accuracy far below the expected one ends the calibration."""
    classifier, dataset = given(tmp_path)
    with pytest.raises(BaselineMismatch, match=r"99\.0 % was expected"):
        calibrate(classifier, dataset, CalibrationOptions(method="post_hoc", expected_accuracy=0.99))


def test_what_explains_a_missed_accuracy_is_said_with_it(tmp_path: Path) -> None:
    """Where two classes are exchanged, the error about the accuracy quotes what was found."""
    classifier, dataset = given(tmp_path)
    exchanged = replace(dataset, targets=np.array([1, 0, 2, 3])[dataset.targets])
    (found,) = (n for n in prepare(classifier, exchanged, CalibrationOptions()).notices if n.severity == "error")
    assert found.code == "label_order"
    with pytest.raises(BaselineMismatch) as caught:
        calibrate(classifier, exchanged, CalibrationOptions(method="post_hoc", expected_accuracy=0.9))
    assert found.message in caught.value.message


def test_what_one_attempt_found_is_found_by_the_next(tmp_path: Path) -> None:
    """Notices come out of the journal of an earlier attempt, but not out of that of another job."""
    start = prepare(*given(tmp_path), CalibrationOptions(method="post_hoc"))
    saved: dict[str, Path] = {}
    journal = partial(FolderJournal, tmp_path / "journal", on_saved=lambda name, file: saved.update({name: file}))
    assert notices_of(start, journal(key="this", known={})) == start.notices
    (name, file), *_ = saved.items()
    path = tmp_path / "journal" / file
    entry = read_state(path)
    assert entry is not None
    write_state(path, {**entry, "notices": [Notice(code="found_before", message="It was found.").model_dump()]})
    assert [one.code for one in notices_of(start, journal(key="this", known={name: path}))] == ["found_before"]
    assert notices_of(start, journal(key="other", known={name: path})) == start.notices


def test_a_refit_is_reported_with_what_it_added_and_learned_from(tmp_path: Path) -> None:
    """Parts in their order with the gain of the refit, FedLAS without a rival, and the rows it has seen."""
    _, dataset = given(tmp_path)
    rng = np.random.default_rng(0)  # a hidden layer that loses what no calibrator can bring back
    layers = [(rng.normal(size=size), np.zeros(size[1])) for size in ((8, 5), (5, 4))]
    (tmp_path / "model.onnx").write_bytes(network(*layers))
    options = CalibrationOptions(
        method="fedlas",
        hyperparameters={"epochs": 5},
        max_candidates=1,
        max_cost_factor=1.0,
        noise_draws=1,
        num_resamples=20,
        accept_warnings=["label_order"],  # an untrained network may be worse than guessing
    )
    found = calibrate(load_onnx(tmp_path / "model.onnx"), dataset, options)
    report = found.report.as_dict()
    assert found.verdict.finalist == "trained"
    parts = {part["name"]: part for part in report["parts"]["rows"]}
    assert list(parts) == ["uploaded", "temperature", "post_hoc", "trained"]
    assert parts["trained"]["served"]
    assert parts["trained"]["out_of_fold_nll"]["change"]["value"] < 0
    assert parts["trained"]["test_nll"]["value"] == pytest.approx(report["metrics"]["calibrated"]["nll"]["value"])
    served = next(one for one in report["candidates"] if one["method"] == "fedlas")
    assert parts["trained"]["out_of_fold_nll"]["value"] == pytest.approx(served["calibration"]["nll"])
    assert (report["loss_comparison"]["method"], report["loss_comparison"]["differences"]) == ("fedlas", [])
    assert report["trained_rows"] == {"train": 120, "calibration": 300}
