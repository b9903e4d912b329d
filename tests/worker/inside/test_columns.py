"""Names of columns and ways of reading, from what was sent over a job to what answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fedlas.contract.options import AnswerOptions, ModelOptions
from fedlas.contract.profiles import ModelProfile
from fedlas.errors import Mismatch, UnsupportedModel
from service.predict.engine.profile import ServingProfile
from service.predict.formats.signature import parse_inputs
from tests.helpers.gaussian_classes import OVERCONFIDENT, network, world
from tests.helpers.plan_orders import an_order
from worker.documents import BatchOrder, InspectModelOrder, JobResult
from worker.inside.batch import predict
from worker.inside.calibration import calibrate
from worker.inside.inspection import inspect_model

NAMES = [f"c{i}" for i in range(8)]
MODEL = network(OVERCONFIDENT, fills_missing=True)


def table(names: list[str], *, index: bool = False) -> bytes:
    """The rows of the world with some missing values and these columns, as pandas writes them."""
    rows = world()
    frame = pd.DataFrame(rows["x"], columns=NAMES)
    frame.iloc[::50, 3] = np.nan
    frame = frame.assign(surplus=1.0)[names].assign(label=rows["label"], split=rows["split"])
    return bytes(frame.to_csv(index=index).encode())


def ordered(folder: Path, rows: bytes, *, columns: list[str] | None) -> JobResult:
    """A post-hoc job on a model whose columns have these names, or none."""
    order, files = an_order(
        folder,
        rows,
        MODEL,
        model_options={"columns": columns},
        dataset_options={"missing": "nan", "seen_by_model": "no"},
        method="post_hoc",
    )
    return calibrate(order, files, folder, lambda _: None)


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobResult, Path]:
    """The job whose dataset has the columns as the model takes them, and names nothing."""
    folder = tmp_path_factory.mktemp("in order")
    return ordered(folder, table(NAMES), columns=None), folder


def test_the_calibrated_model_keeps_names_and_reading(in_order: tuple[JobResult, Path]) -> None:
    """The dataset's where the model has none; a request by column name, with null, is what it should be."""
    profile = in_order[0].calibrated
    assert profile is not None
    assert profile.columns == NAMES
    assert profile.reading is not None
    assert profile.reading.missing == "nan"
    row = {name: float(i) for i, name in reversed(list(enumerate(NAMES)))} | {"c3": None}
    body = json.dumps({"inputs": [row]}).encode()
    found = parse_inputs([row], ServingProfile.of(profile.stored()), max_rows=1, text=body)["x"]
    np.testing.assert_array_equal(found, np.array([[0, 1, 2, np.nan, 4, 5, 6, 7]], np.float32))


def test_columns_in_another_order_are_the_same_job(in_order: tuple[JobResult, Path], tmp_path: Path) -> None:
    """Named on both sides, in any order, with surplus ones and an index, they end in the same file, with notices."""
    found = ordered(tmp_path, table([*NAMES[::-1], "surplus"], index=True), columns=NAMES)
    assert [notice.code for notice in found.adjustments] == ["index_dropped", "columns_dropped", "columns_reordered"]
    assert found.adjustments[2].evidence["model"] == NAMES
    assert found.calibrated is not None
    assert found.calibrated.columns == NAMES
    reports = [json.loads((folder / "report.json").read_text()) for folder in (in_order[1], tmp_path)]
    assert reports[0]["metrics"] == reports[1]["metrics"]


def test_batches_take_columns_by_name(tmp_path: Path) -> None:
    """Rows in another order get the answers of their own columns; a missing one ends the batch."""
    options = ModelOptions(columns=NAMES)
    answers = []
    for names in (NAMES, NAMES[::-1]):
        folder = tmp_path / names[0]
        order, files = an_order(
            folder, table(names), MODEL, model_options=options.model_dump(), dataset_options={"missing": "nan"}
        )
        served = {"model": folder / "served.onnx", "dataset": files["dataset"]}
        batch = BatchOrder(profile=order.model.profile, options=AnswerOptions())
        predict(batch, served, folder, lambda _: None)
        answers.append(pq.read_table(folder / "results.parquet"))
    assert answers[0].equals(answers[1])
    order, files = an_order(tmp_path / "lacking", table(NAMES[1:]), MODEL, dataset_options={"missing": "nan"})
    served = {"model": tmp_path / "lacking" / "served.onnx", "dataset": files["dataset"]}
    with pytest.raises(Mismatch, match="lacks 'c0'") as caught:
        predict(batch, served, tmp_path, lambda _: None)
    assert caught.value.code == "columns_mismatch"


def test_batches_take_what_the_model_may_miss(tmp_path: Path) -> None:
    """Rows that are only to be predicted hold missing values where the model's reading allows them."""
    rows = table(NAMES)
    order, files = an_order(
        tmp_path, rows, MODEL, model_options={"missing": "nan"}, dataset_options={"purpose": "predict"}
    )
    batch = BatchOrder(profile=order.model.profile, options=AnswerOptions())
    predict(batch, {"model": tmp_path / "served.onnx", "dataset": files["dataset"]}, tmp_path, lambda _: None)
    assert pq.read_table(tmp_path / "results.parquet").num_rows == rows.count(b"\n") - 1


def inspected(folder: Path, **options: Any) -> ModelProfile:
    """The profile of the upload with these options."""
    (folder / "model.onnx").write_bytes(MODEL)
    order = InspectModelOrder(options=ModelOptions.model_validate(options))
    return inspect_model(order, {"model": folder / "model.onnx"}, folder, lambda _: None).profile


@pytest.mark.parametrize(
    ("options", "code"), [({"columns": NAMES[1:]}, "columns_mismatch"), ({"padding": {"y": 0}}, "padding_mismatch")]
)
def test_names_and_padding_must_fit_the_inputs(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    """A model with other inputs than its sender says is rejected, and its inputs are shown."""
    with pytest.raises(UnsupportedModel, match=r"'x' \['N', 8\]") as caught:
        inspected(tmp_path, **options)
    assert caught.value.code == code


def test_a_models_own_reading_is_kept(tmp_path: Path) -> None:
    """Options for columns, padding and gaps stand in the profile."""
    profile = inspected(tmp_path, columns=NAMES, padding={"x": 0}, missing="nan")
    assert profile.columns == NAMES
    assert profile.reading is not None
    assert profile.reading.model_dump() == {"padding": {"x": 0}, "missing": "nan"}
