"""Data and models that tempt a calibration into a false report: each gets a true one, or an error that says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from scipy.special import softmax

from fedlas.contract.options import DatasetOptions, ModelOptions
from fedlas.contract.requests import JobRequest
from fedlas.errors import BadDataset
from fedlas.gate.gate import judge
from fedlas.race.calibrator_selection import CalibratorSelector
from service.predict.engine.calibrated_file import file_profile
from tests.helpers.gaussian_classes import COUNT, OVERCONFIDENT, SPLITS, TRUTH, Array, Layers, network, words, world
from worker.documents import (
    ChildEvent,
    InspectDatasetOrder,
    InspectModelOrder,
    JobOrder,
    OrderedDataset,
    OrderedModel,
)
from worker.inside.calibration import calibrate
from worker.inside.inspection import inspect_dataset, inspect_model

pytestmark = pytest.mark.slow

Json = dict[str, Any]


def rare(positives: float, counts: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Two classes of which the second is this share of the rows; two dimensions, the first tells."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(sum(counts.values())) < positives).astype(np.int64)
    rows = rng.normal(size=(len(targets), 2)) + 1.5 * targets[:, None] * np.array([1, 0])
    return {"x": rows.astype(np.float32), "label": targets, "split": words(**counts)}


@dataclass(frozen=True)
class Outcome:
    """The results of a job: its answer, its report, and the folder with the calibrated file."""

    answer: Json
    report: Json
    folder: Path

    @property
    def said(self) -> str:
        return "\n".join(self.report["summary"])

    def value(self, model: str, metric: str) -> float:
        return float(self.report["metrics"][model][metric]["value"])

    def probs(self, rows: Array) -> Array:
        """Probabilities of the calibrated file, run alone."""
        session = ort.InferenceSession(self.folder / "calibrated.onnx", providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["probabilities"], {"x": rows})[0], np.float64)


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Inspect a model and a dataset and calibrate, as the sandbox does it; by default post hoc."""

    def job(
        model: bytes, data: Mapping[str, Array], *, dataset: Json | None = None, looks: int = 0, **request: Any
    ) -> Outcome:
        (tmp_path / "m.onnx").write_bytes(model)
        np.savez(tmp_path / "d.npz", **data)
        file = tmp_path / "m.onnx"
        profile = inspect_model(InspectModelOrder(options=ModelOptions()), {"model": file}, tmp_path, _silent).profile
        inspection = InspectDatasetOrder(options=DatasetOptions(**(dataset or {})))
        inspect_dataset(inspection, {"dataset": tmp_path / "d.npz"}, tmp_path, _silent)
        wanted = {"method": "post_hoc", "budget": {"minutes": 1, "candidates": 2}, **request}
        order = JobOrder(
            kind="calibrate",
            job_id="job_1",
            request=JobRequest(model_id="mdl_1", dataset_id="ds_1", **wanted),
            model=OrderedModel(id="mdl_1", sha256="0", row_key="0" * 32, options=ModelOptions(), profile=profile),
            dataset=OrderedDataset(id="ds_1", sha256="1", prepared_sha256="2"),
            looks_before=looks,
        )
        files = {"model": file, "dataset": tmp_path / "prepared.npz"}
        answer = calibrate(order, files, tmp_path, _silent).model_dump(mode="json", exclude_unset=True)
        json.dumps(answer, allow_nan=False)
        report = json.loads((tmp_path / "report.json").read_text(), parse_constant=_no_number)
        assert (answer["serves"] == "calibrated") == (answer["verdict"] in ("trained", "post_hoc"))
        assert not re.search(r"\bnan\b", (tmp_path / "report.html").read_text(), re.IGNORECASE)
        return Outcome(answer, report, tmp_path)

    return job


def _silent(event: ChildEvent) -> None:
    pass


def _no_number(word: str) -> float:
    raise AssertionError(f"the report has a {word}")


def spoiled(targets: Array, rows: Array, share: float, seed: int = 1) -> Array:
    """The labels, with this share of the rows turned into one of the other three classes."""
    rng = np.random.default_rng(seed)
    wrong = rows[rng.random(len(rows)) < share]
    changed = targets.copy()
    changed[wrong] = (targets[wrong] + rng.integers(1, 4, len(wrong))) % 4
    return changed


def recalls(probs: Array, targets: Array) -> Array:
    """Recall of each class (K,)."""
    return np.array([(probs[targets == k].argmax(1) == k).mean() for k in range(probs.shape[1])])


@pytest.mark.parametrize("layer", [OVERCONFIDENT, TRUTH])
def test_wrong_calibration_labels_promote_nothing(run: Run, layer: tuple[Array, Array]) -> None:
    """A calibrator fitted on rows with 30 % wrong labels harms the right test rows: it is stopped, and named."""
    data = world()
    data["label"] = spoiled(data["label"], np.flatnonzero(data["split"] == "calibration"), 0.3)
    found = run(network(layer), data)
    assert found.value("temperature", "brier") > found.value("uploaded", "brier")
    assert found.answer["verdict"] == "unchanged"
    assert "labels of calibration rows are wrong" in found.said


def test_what_is_calibrated_already_keeps_its_probabilities(run: Run) -> None:
    """No calibrator is better out of fold than the true probabilities: they are served as they are, with promises."""
    data = world()
    found = run(network(TRUTH), data)
    assert found.report["recipe"]["calibrator"]["name"] == "identity"
    rows = data["x"][data["split"] == "test"]
    true = softmax(rows.astype(np.float64) @ TRUTH[0] + TRUTH[1], axis=1)
    np.testing.assert_allclose(found.probs(rows), true, atol=1e-6)
    assert "The uploaded model keeps its own probabilities" in found.said
    assert "no calibrator is better on the calibration rows" in (found.folder / "report.html").read_text()
    assert found.answer["calibrated"]["guarantees"]["num_rows"] == SPLITS["guarantee"]


def test_clean_splits_are_not_suspected(run: Run) -> None:
    """Rows with right labels are not suspicious: the overconfident model is calibrated, and no warning comes."""
    found = run(network(OVERCONFIDENT), world())
    assert found.answer["verdict"] == "post_hoc"
    assert found.value("calibrated", "nll") < found.value("uploaded", "nll") - 0.05
    assert found.report["warnings"] == []
    seen = {"dataset_id": "ds_1", "sha256": "1", "splits": ["calibration"], "network": []}
    assert found.answer["calibrated"]["trained_on"] == [seen]


def test_a_file_has_the_profile_of_its_record(run: Run) -> None:
    """All that serving reads is in the file, but what was measured, and its bytes are those that the record names."""
    found = run(network(OVERCONFIDENT), world(), method="temperature", outputs=["features", "typicality"])
    file, recorded = found.folder / "calibrated.onnx", found.answer["calibrated"]
    profile: Json = dict(file_profile(file))
    about_the_record = {"warnings", "adjustments", "priors_input", "cost_factor", "answer_times", "trained_on"}
    assert recorded.keys() - profile.keys() == about_the_record
    assert profile["guarantees"]["num_rows"] == SPLITS["guarantee"]
    assert profile["cost"].pop("measured")["rows"] == recorded["cost"].pop("measured")["rows"] == 256
    assert profile == {name: value for name, value in recorded.items() if name not in about_the_record}
    suffix = bytes.fromhex(recorded["priors_input"]["suffix"])
    assert sha256(file.read_bytes() + suffix).hexdigest() == recorded["priors_input"]["sha256"]


@pytest.mark.parametrize("outputs", [[], ["typicality"], ["features"]])
def test_a_file_computes_what_was_asked_for(run: Run, outputs: list[str]) -> None:
    """The served copy computes everything, the file and its profile only what the job names, and both the same."""
    data = world()
    found = run(network(OVERCONFIDENT), data, method="temperature", outputs=outputs)
    names, rows = ["logits", "probabilities", "confidence", *sorted(outputs)], {"x": data["x"][:50]}
    lean, whole = (ort.InferenceSession(found.folder / f"{name}.onnx") for name in ("calibrated", "served"))
    assert [output.name for output in lean.get_outputs()] == names
    assert {output.name for output in whole.get_outputs()} == {*names, "features", "typicality"}
    for name, answer in zip(names, lean.run(names, rows), strict=True):
        np.testing.assert_array_equal(answer, whole.run([name], rows)[0])
    profile = file_profile(found.folder / "calibrated.onnx")
    assert (profile["features"]["dim"] > 0, profile["typicality"] is not None) == (
        "features" in outputs,
        "typicality" in outputs,
    )
    assert file_profile(found.folder / "served.onnx")["typicality"] == found.answer["calibrated"]["typicality"]


def test_times_of_answers(run: Run) -> None:
    """One row and 64 are timed beside the uploaded network, and the cost factor is the ratio for one row."""
    made = run(network(OVERCONFIDENT), world(), method="temperature").answer["calibrated"]
    one, many = made["answer_times"]
    assert (one["rows"], many["rows"]) == (1, 64)
    assert many["us"] > one["us"] > 0
    assert many["uploaded_us"] > 0
    assert made["cost_factor"] == pytest.approx(one["us"] / one["uploaded_us"], abs=0.01)


def test_a_single_class_in_calibration_moves_no_label(run: Run) -> None:
    """Calibration rows of one of four classes carry one cautious temperature, which helps all of them here."""
    data = world()
    kept = (data["split"] != "calibration") | (data["label"] == 0)
    found = run(network(OVERCONFIDENT), {name: array[kept] for name, array in data.items()})
    assert "3 of 4 classes have no calibration row" in found.said
    assert found.report["recipe"]["calibrator"]["name"] == "shrunken_temperature"
    assert found.value("calibrated", "accuracy") == found.value("uploaded", "accuracy")
    assert found.value("calibrated", "nll") < found.value("uploaded", "nll")


def test_classes_that_calibration_never_met_are_not_lost(run: Run) -> None:
    """With calibration rows of two of four classes only, the calibrated file does not lose the others."""
    data = world()
    kept = (data["split"] != "calibration") | (data["label"] < 2)
    data = {name: array[kept] for name, array in data.items()}
    found = run(network(OVERCONFIDENT), data)
    assert "2 of 4 classes have no calibration row" in found.said
    assert found.answer["verdict"] == "post_hoc"
    test = data["split"] == "test"
    rows, targets = data["x"][test], data["label"][test]
    before = recalls(rows @ OVERCONFIDENT[0] + OVERCONFIDENT[1], targets)
    assert (recalls(found.probs(rows), targets) >= before - 0.05).all()


def test_a_calibrator_that_knows_the_true_prior_is_served(run: Run) -> None:
    """The true prior of 0.3 % positives serves a model trained at half: better scores, as many positives found."""
    data = rare(0.003, {"calibration": 2000, "test": 2500})
    found = run(network((np.stack([np.zeros(2), np.array([1.5, 0.0])], 1), np.array([0, -1.125]))), data)
    assert found.report["gate"]["claims"][-1]["finalist"] == "post_hoc"
    assert found.report["gate"]["claims"][-1]["comparisons"][0]["high"] < 0
    assert found.report["gate"]["finalist"] == "post_hoc"
    guards = [guard for guard in found.report["gate"]["guards"] if guard["finalist"] == "post_hoc"]
    assert all(guard["passed"] for guard in guards)
    test = data["split"] == "test"
    assert found.probs(data["x"][test])[:, 1].mean() == pytest.approx(data["label"][test].mean(), rel=0.7)
    assert "accuracy is no evidence" in found.said


def test_the_gate_stops_a_network_that_always_says_no() -> None:
    """Right on 99.7 % by never finding anything: better in Brier and accuracy than a model that finds all, stopped."""
    rng = np.random.default_rng(0)
    targets = (np.arange(4000) < 12).astype(np.int64)
    alarm = np.where(targets == 1, 0.8, np.where(rng.random(4000) < 0.2, 0.7, 0.02))
    uploaded, never = np.stack([1 - alarm, alarm], 1), np.tile([0.997, 0.003], (4000, 1))
    judged = judge({"uploaded": uploaded, "post_hoc": uploaded, "trained": never}, targets, provenance="no")
    claim = next(claim for claim in judged.claims if claim.finalist == "trained")
    assert claim.significant
    assert judged.order == ("post_hoc",)
    assert [guard.name for guard in judged.guards if not guard.passed] == ["class_auroc_drop"]


def test_imbalance_alone_is_no_sign_of_seen_rows(run: Run) -> None:
    """With 0.3 % positives 99.7 % accuracy takes no skill, so it is not called too good to be true."""
    layer = (np.stack([np.zeros(2), np.array([1.5, 0.0])], 1), np.array([0, np.log(0.003 / 0.997) - 1.125]))
    found = run(network(layer), rare(0.003, {"calibration": 1000, "test": 1000}, seed=2))
    assert found.value("uploaded", "accuracy") > 0.995
    assert "has not seen these rows" not in found.said
    assert "accuracy is no evidence" in found.said


def test_a_thousand_classes(run: Run) -> None:
    """Most of 1,000 classes have one or two calibration rows: a temperature still mends an overconfident model."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(1000, 16)) * 1.5
    counts = {"train": 1000, "calibration": 1500, "test": 1500}
    targets = rng.integers(0, 1000, 4000)
    rows = (centres[targets] + rng.normal(size=(4000, 16))).astype(np.float32)
    layer = (3 * centres.T, -1.5 * (centres**2).sum(1))
    found = run(network(layer), {"x": rows, "label": targets, "split": words(**counts)})
    assert found.answer["serves"] == "calibrated"
    assert found.value("calibrated", "ece") < found.value("uploaded", "ece") / 2
    assert found.value("calibrated", "accuracy") >= found.value("uploaded", "accuracy") - 0.005
    assert "classes have no calibration row" in found.said
    np.testing.assert_allclose(found.probs(rows[:50]).sum(1), 1, atol=1e-5)


def test_a_map_of_the_features_keeps_to_its_time() -> None:
    """Where features clearly help, the map that reads them is chosen, unless fitting it would eat the budget."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 400)
    logits, features = rng.normal(size=(400, 3)), np.eye(3)[targets] + rng.normal(size=(400, 3)) * 0.3
    names = {
        seconds: CalibratorSelector(targets, ("temperature",), True, seconds=seconds)
        .calibrate(logits, features)
        .calibrator.name
        for seconds in (2.0, 1e-6)
    }
    assert names == {2.0: "features", 1e-6: "temperature"}


def test_a_perfect_model_stays_perfect(run: Run) -> None:
    """Nothing can be better than right and sure on every row; nothing is shown, and the report expresses doubt."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, COUNT)
    rows = (20 * np.eye(4, 8)[targets] + rng.normal(size=(COUNT, 8))).astype(np.float32)
    data = {"x": rows, "label": targets, "split": words(**SPLITS)}
    found = run(network((20 * np.eye(4, 8).T, np.zeros(4))), data, method="auto", hyperparameters={"epochs": 2})
    assert not found.answer["significant"]
    assert found.value("uploaded", "accuracy") == found.value("calibrated", "accuracy") == 1
    assert found.value("calibrated", "nll") < 0.005
    assert "has not seen these rows" in found.said


def test_a_useless_model_ends_up_saying_so(run: Run) -> None:
    """Labels have nothing to do with the rows: what is served says about a quarter, and the report says why."""
    data = {**world(), "label": np.random.default_rng(3).integers(0, 4, COUNT)}
    found = run(network(OVERCONFIDENT), data, accept_warnings=["worse_than_frequencies"])
    assert "accuracy is no evidence" in found.said
    assert found.probs(data["x"][data["split"] == "test"]).max(1).mean() == pytest.approx(0.25, abs=0.06)
    assert found.value("uploaded", "ece") > 0.5


@pytest.mark.parametrize("ends_with", [None, "Softmax"])
def test_huge_logits(run: Run, ends_with: str | None) -> None:
    """Logits of ±1e4, and probabilities that are exactly 0 and 1: finite figures, and a better model comes back."""
    layer = (1000 * TRUTH[0], 1000 * TRUTH[1])
    data = world()
    assert np.ptp(data["x"] @ layer[0] + layer[1], axis=1).mean() > 5000
    found = run(network(layer, ends_with=ends_with), data)
    assert found.answer["serves"] == "calibrated"
    assert found.value("calibrated", "nll") < found.value("uploaded", "nll") / 10
    assert found.value("calibrated", "accuracy") == pytest.approx(found.value("uploaded", "accuracy"), abs=0.005)
    probs = found.probs(data["x"])
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("split", SPLITS)
def test_missing_values_that_the_model_cannot_read(run: Run, split: str) -> None:
    """`missing=nan` lets NaN through to a model that answers NaN: the job ends and names the row, in any split."""
    data = world()
    row = int(np.flatnonzero(data["split"] == split)[7])
    data["x"][row, 2] = np.nan
    with pytest.raises(BadDataset, match=rf"row {row} \(in '{split}'\)") as refused:
        run(network(OVERCONFIDENT), data, dataset={"missing": "nan"})
    assert (refused.value.code, refused.value.user_error) == ("non_finite_answers", True)


def test_missing_values_that_the_model_fills(run: Run) -> None:
    """A model that fills missing values itself is calibrated as ever, and its file still reads them."""
    data = world()
    data["x"][::7, 2] = np.nan
    found = run(network(OVERCONFIDENT, fills_missing=True), data, dataset={"missing": "nan"})
    assert found.answer["serves"] == "calibrated"
    np.testing.assert_allclose(found.probs(data["x"]), found.probs(np.nan_to_num(data["x"])), atol=1e-7)


def test_a_model_that_answers_nan_to_good_rows(run: Run) -> None:
    """A logarithm inside a model turns negative numbers into NaN: an error of the sender's, no crash of ours."""
    model = onnx.load_from_string(network(TRUTH))
    model.graph.node[0].input[0] = "logs"
    model.graph.node.insert(0, helper.make_node("Log", ["shifted"], ["logs"]))
    model.graph.node.insert(0, helper.make_node("Add", ["x", "shift"], ["shifted"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(10), "shift"))
    data = world()
    for split in ("calibration", "test"):
        broken = {name: array.copy() for name, array in data.items()}
        broken["x"][np.flatnonzero(data["split"] == split)[4]] = -20
        with pytest.raises(BadDataset, match=f"row 4 of the split '{split}'") as refused:
            run(model.SerializeToString(), broken, accept_warnings=["constant_answers"])
        assert refused.value.code == "non_finite_answers"


def test_one_group_for_everything(run: Run) -> None:
    """One group cannot be divided into splits, may not cross given ones, and cannot judge alone: each is an error."""
    data = {**world(), "group": np.zeros(COUNT, np.int64)}
    with pytest.raises(BadDataset) as crossing:
        run(network(TRUTH), data)
    drawn = {name: array for name, array in data.items() if name != "split"}
    with pytest.raises(BadDataset) as undivided:
        run(network(TRUTH), drawn, dataset={"seen_by_model": "no"})
    judges = {**data, "group": np.where(data["split"] == "test", 10_000, np.arange(COUNT))}
    with pytest.raises(BadDataset, match="'test' are of one group") as alone:
        run(network(TRUTH), judges, method="auto")
    codes = [error.value.code for error in (crossing, undivided, alone)]
    assert codes == ["group_crosses_splits", "split_too_small", "split_too_small"]


def test_one_group_of_guarantee_rows_promises_next_to_nothing(run: Run) -> None:
    """Eighty guarantee rows of one patient are one observation: no error level under 90 % is promised."""
    data = world()
    data["group"] = np.where(data["split"] == "guarantee", 10_000, np.arange(COUNT))
    found = run(network(OVERCONFIDENT), data)
    assert found.report["guarantees"]["num_groups"] == 1
    assert [row["threshold"] for row in found.report["guarantees"]["max_error"]] == [None] * 5
    assert all(row["reachable"] > 0.9 for row in found.report["guarantees"]["max_error"])


def test_duplicates_across_splits_are_counted(run: Run) -> None:
    """Fifty test rows that are calibration rows too, and thirty that are train rows: both are reported."""
    data = world()
    places = {name: np.flatnonzero(data["split"] == name) for name in SPLITS}
    for split, rows in (("calibration", slice(0, 50)), ("train", slice(50, 80))):
        origin = places[split][: rows.stop - rows.start]
        data["x"][places["test"][rows]], data["label"][places["test"][rows]] = data["x"][origin], data["label"][origin]
    found = run(network(OVERCONFIDENT), data)
    assert found.report["duplicates"] == {"train": 30, "calibration": 50}
    assert "50 test rows also occur in the split 'calibration'" in found.said
    assert "30 test rows also occur in the split 'train'" in found.said


@pytest.mark.parametrize("kind", ["dead ReLU", "constant logits", "constant inputs"])
def test_features_and_logits_that_say_nothing(run: Run, kind: str) -> None:
    """Features, logits or rows that are all equal give finite figures, and confidences that rank nothing."""
    data, dead = world(), (np.zeros((8, 5)), -np.ones(5))
    if kind == "constant inputs":
        data["x"][:] = 1
    layers: Layers = {
        "dead ReLU": (dead, (np.ones((5, 4)), np.arange(4) * 0.5)),
        "constant logits": ((np.zeros((8, 4)), np.zeros(4)),),
        "constant inputs": (OVERCONFIDENT,),
    }[kind]
    # Where only the logits are constant, the features still know the classes, and a richer method would use them.
    method = "temperature" if kind == "constant logits" else "fedlas"
    settings = {"hyperparameters": {"epochs": 2}, "accept_warnings": ["constant_answers"]}
    found = run(network(*layers), data, method=method, **settings)
    assert found.answer["verdict"] != "trained" or kind == "constant inputs"
    assert found.value("calibrated", "ece") < 0.1
    assert "too similar" in found.said
