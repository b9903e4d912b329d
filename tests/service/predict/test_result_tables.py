"""Answers as columns are those of single rows; a results file keeps them, and is read by pages, as text and joined."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedlas.calibrators import softmax
from fedlas.contract.options import AnswerOptions
from fedlas.guarantees import Guarantees
from service.predict.engine.profile import completed
from service.predict.formats import result_tables
from service.predict.formats import result_tables as writers
from service.predict.formats.result_tables import TableWriter, numbered, parquet, read_page, write_results
from service.registry.errors import InvalidRequest
from tests.helpers.predictions import answer, policy

ROWS = 300
NAMES = ["a", "b", "ä ,\n"]
COSTS = {"costs": [[0, 1, 1], [5, 0, 1], [1, 1, 0]]}
FULL: dict[str, Any] = {"top_k": 2, "abstain_below": 0.5, "coverage": 0.7, "max_error": 0.3, "decision": COSTS}
FORMULAS = ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
PLAIN = ["cat", "a=b", "", "'=1", "1-1"]
JOINED_ROWS = 100


def outputs(num_classes: int = 3, *, rows: int = ROWS) -> dict[str, np.ndarray]:
    """The outputs of a calibrated file, with classes of equal probability in every tenth row."""
    logits = np.random.default_rng(0).normal(scale=3, size=(rows, num_classes)).astype(np.float32)
    logits[::10] = logits[::10, :1]
    probs = softmax(logits.astype(np.float64) / 2).astype(np.float32)
    typicality = np.linspace(0, 1, rows, dtype=np.float32)
    typicality[:1] = np.nan
    return {"logits": logits, "probabilities": probs, "confidence": probs.max(1), "typicality": typicality}


@cache
def promises(num_classes: int) -> dict[str, Any]:
    """The promises that rows like these allow."""
    probs = outputs(num_classes, rows=2000)["probabilities"].astype(np.float64)
    targets = (probs.cumsum(1) > np.random.default_rng(1).random((len(probs), 1))).argmax(1)
    fitted = Guarantees.fit(probs / probs.sum(1, keepdims=True), targets, class_names=NAMES[:num_classes])
    return fitted.as_dict()


def profile(num_classes: int = 3, **more: Any) -> dict[str, Any]:
    """A model that keeps promises."""
    return {"class_names": NAMES[:num_classes], "guarantees": promises(num_classes), "typicality": {}, **more}


def answered(outputs: dict[str, np.ndarray], about: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Rows as JSON has them where it is asked for what a table has by default."""
    return answer(outputs, about, AnswerOptions(probabilities=True, **options))


def tabulated(outputs: Any, about: dict[str, Any], options: AnswerOptions, *, first_row: int | None) -> pa.Table:
    """One block of rows."""
    result_tables = TableWriter(policy(about, options)).table(outputs, first_row=first_row or 0)
    return result_tables if first_row is None else numbered(result_tables, first_row, result_tables.num_rows)


OPTIONS = [{}, FULL, {"decision": COSTS}, {"abstain_below": 0.0}, {"abstain_below": 1.0}]
OPTIONS += [{"top_k": k} for k in (1, 3, 1000)] + [{"max_error": one} for one in (0.3, {"class": 0.6})]
OPTIONS += [{"coverage": one} for one in (0.4, 0.95, {"class": 0.8}, {"b": 0.8})]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_columns_are_the_answers(options: dict[str, Any]) -> None:
    """Row by row and key by key, in the same order, what a single request is answered."""
    wanted, about = AnswerOptions(**options), profile()
    expected = answered(outputs(), about, **options)
    assert tabulated(outputs(), about, wanted, first_row=None).to_pylist() == expected
    if options.get("coverage") == 0.4:
        assert any(row["prediction_set"] == [] for row in expected)
    if options.get("max_error") == 0.3:
        assert {row["abstain"] for row in expected} == {True, False}


@pytest.mark.parametrize(
    ("num_classes", "asked", "there"), [(100, None, True), (101, None, False), (101, True, True), (3, False, False)]
)
def test_all_probabilities_unless_they_are_very_many(num_classes: int, asked: bool | None, there: bool) -> None:
    """A table has them for up to 100 classes, or as it is asked; a row's sum to one."""
    about = {"class_names": [str(k) for k in range(num_classes)]}
    found = tabulated(outputs(num_classes), about, AnswerOptions(probabilities=asked), first_row=None)
    assert ("probabilities" in found.column_names) == there
    if there:
        np.testing.assert_allclose(np.sum(found["probabilities"].to_pylist(), axis=1), np.ones(ROWS), atol=1e-5)


@pytest.mark.parametrize("positive", [None, NAMES[0], NAMES[1]])
@pytest.mark.parametrize("decision", [None, {"threshold": 0.3}, {"costs": [[0, 1], [10, 0]]}], ids=str)
def test_columns_of_binary_models(positive: str | None, decision: dict[str, Any] | None) -> None:
    """The probability of the positive class and what is decided by it are those of single requests."""
    about = profile(2, task="binary", positive_class=positive)
    options: dict[str, Any] = {"top_k": 2, "coverage": 0.8, "decision": decision}
    given = outputs(2)
    found = tabulated(given, about, AnswerOptions(**options), first_row=None)
    assert found.to_pylist() == answered(given, about, **options)
    column = given["probabilities"][:, 0 if positive == NAMES[0] else 1]
    assert found["probability"].to_pylist() == column.tolist()


def test_a_threshold_is_not_rounded() -> None:
    """A confidence of float32 is compared as it is written: 0.8 there is a little more than the 0.8 of a client."""
    given = outputs(2, rows=2)
    given["confidence"] = np.array([0.8, 0.7], np.float32)
    for below, expected in ((0.8, [False, True]), (0.7, [False, True]), (float(np.float32(0.8)) + 1e-12, [True, True])):
        options = AnswerOptions(abstain_below=below)
        assert tabulated(given, profile(2), options, first_row=None)["abstain"].to_pylist() == expected
        assert [row["abstain"] for row in answer(given, profile(2), options)] == expected


def test_types_of_the_columns() -> None:
    """Text is text, numbers are doubles, whatever the model's type; rows are counted from the first."""
    found = tabulated(outputs(), profile(), AnswerOptions(**FULL), first_row=1 << 40)
    ranked = pa.struct([("label", pa.string()), ("index", pa.int32()), ("confidence", pa.float64())])
    assert found.schema == pa.schema(
        [
            ("row", pa.int64()),
            ("label", pa.string()),
            ("index", pa.int32()),
            ("confidence", pa.float64()),
            ("uncalibrated_confidence", pa.float64()),
            ("abstain", pa.bool_()),
            ("typicality", pa.float64()),
            ("top_k", pa.list_(ranked)),
            ("prediction_set", pa.list_(pa.string())),
            ("decision", pa.string()),
            ("probabilities", pa.list_(pa.float32())),
        ]
    )
    assert found["row"].to_pylist() == list(range(1 << 40, (1 << 40) + ROWS))
    half = {name: array.astype(np.float16) for name, array in outputs().items()}
    assert tabulated(half, profile(), AnswerOptions(), first_row=None)["confidence"].type == pa.float64()


def test_what_is_known_is_not_computed_again() -> None:
    """Outputs that a batch of many requests has completed already give the same columns."""
    about, options = profile(), AnswerOptions(**FULL)
    once = tabulated(completed(outputs()), about, options, first_row=None)
    assert once.equals(tabulated(outputs(), about, options, first_row=None))


def test_nothing_of_no_rows() -> None:
    """No rows give columns of the same types."""
    none = {name: array[:0] for name, array in outputs().items()}
    options = AnswerOptions(top_k=2, max_error=0.3, decision=COSTS)
    some = tabulated(outputs(), profile(), options, first_row=0)
    assert tabulated(none, profile(), options, first_row=0).equals(some.slice(0, 0))


@pytest.mark.parametrize(("first_row", "named"), [(None, "row 7:"), (0, "row 7:"), (4096, "row 4103:")])
def test_no_number_is_no_answer(first_row: int | None, named: str) -> None:
    """A row whose numbers overflow is named as the sender counts it; inputs are not touched."""
    given = outputs()
    given["logits"][[7, 9], 1] = np.nan
    before = set(given)
    with pytest.raises(InvalidRequest, match=named) as caught:
        tabulated(given, profile(), AnswerOptions(), first_row=first_row)
    assert (caught.value.code, caught.value.field) == ("non_finite_output", "inputs")
    assert set(given) == before


def blocks(sizes: list[int], **options: Any) -> Iterator[pa.Table]:
    """Consecutive tables of so many rows."""
    first = 0
    for size in sizes:
        some = {name: array[first : first + size] for name, array in outputs().items()}
        yield tabulated(some, profile(), AnswerOptions(**options), first_row=first)
        first += size


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    """Any reader of Parquet, and a page, finds the answers as they were, with the columns that were asked for."""
    path = tmp_path / "results.parquet"
    assert write_results(path, blocks([100, 1, 99, 100], **FULL)) == ROWS
    expected = [{"row": row, **found} for row, found in enumerate(answered(outputs(), profile(), **FULL))]
    assert pq.read_table(path).to_pylist() == expected
    assert read_page(path, start=0, limit=1000) == (expected, False)
    assert write_results(path, blocks([ROWS])) == ROWS
    assert pq.read_table(path).column_names == [
        name for name in expected[0] if name not in ("top_k", "prediction_set", "decision")
    ]


@pytest.mark.parametrize("limit", [1, 4, 5, 7, 99, 1000])
@pytest.mark.parametrize("group", [1, 5, 8, 1000])
def test_pages_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, group: int) -> None:
    """Pages of any size, over groups of any size, give every row once and in order; beyond the end there is nothing."""
    monkeypatch.setattr(result_tables, "GROUP_ROWS", group)
    path = tmp_path / "results.parquet"
    assert write_results(path, blocks([5, 5, 1, 3])) == 14
    rows: list[dict[str, Any]] = []
    has_more = True
    while has_more:
        page, has_more = read_page(path, start=len(rows), limit=limit)
        assert len(page) == min(limit, 14 - len(rows))
        rows += page
    assert rows == pq.read_table(path).to_pylist()
    assert [row["row"] for row in rows] == list(range(14))
    for start in (14, 15, 10**30):
        assert read_page(path, start=start, limit=limit) == ([], False)


def test_groups_are_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks are gathered, and blocks that take much memory are not."""
    path = tmp_path / "results.parquet"
    monkeypatch.setattr(result_tables, "GROUP_ROWS", 64)
    write_results(path, blocks([16] * 10))
    found = pq.read_metadata(path)
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [64, 64, 32]
    monkeypatch.setattr(result_tables, "_GROUP_BYTES", 1)
    write_results(path, blocks([16] * 3))
    assert pq.read_metadata(path).num_row_groups == 3


def test_a_page_reads_its_groups_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page comes whole from a file in which every other group is destroyed."""
    monkeypatch.setattr(result_tables, "GROUP_ROWS", 50)
    path = tmp_path / "results.parquet"
    write_results(path, blocks([50] * 6, top_k=2))
    expected = pq.read_table(path).to_pylist()
    metadata, content = pq.read_metadata(path), bytearray(path.read_bytes())
    for group in (0, 1, 4, 5):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            begin = chunk.dictionary_page_offset or chunk.data_page_offset
            content[begin : begin + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)
    assert read_page(path, start=100, limit=100) == (expected[100:200], True)
    assert read_page(path, start=149, limit=2) == (expected[149:151], True)
    with pytest.raises(OSError, match=r".+"):
        read_page(path, start=99, limit=2)


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    """Where a later block fails there is no file that looks whole."""
    path = tmp_path / "results.parquet"

    def failing() -> Iterator[pa.Table]:
        yield from blocks([50] * 3)
        raise InvalidRequest("non_finite_output", "row 150: no number")

    for rows in (1, 1000):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InvalidRequest, match="row 150"):
            patch.setattr(result_tables, "GROUP_ROWS", rows)
            write_results(path, failing())
        assert not path.exists()


def files(tmp_path: Path) -> list[pq.ParquetFile]:
    """Results whose texts are formulas, and whose numbers are negative."""
    texts = [*FORMULAS, *PLAIN, None]
    columns = {
        "row": np.arange(len(texts)),
        "id": pa.array(texts),
        "confidence": np.full(len(texts), -0.5),
        "prediction_set": pa.array([["=1"]] * len(texts)),
    }
    write_results(tmp_path / "0.parquet", [pa.table(columns)])
    return [pq.ParquetFile(tmp_path / "0.parquet")]


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    """A text that a spreadsheet would run has an apostrophe in front; others, and numbers, are as they were."""
    content = b"".join(writers.csv(files(tmp_path))).decode()
    read = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["id"] for row in read] == [*(f"'{text}" for text in FORMULAS), *PLAIN, ""]
    assert {row["confidence"] for row in read} == {"-0.5"}
    assert {row["prediction_set"] for row in read} == {'["=1"]'}


def test_lines_of_json_have_texts_as_they_are(tmp_path: Path) -> None:
    """No program that reads JSON runs it: nothing is put in front of a text."""
    lines = b"".join(writers.ndjson(files(tmp_path))).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [*FORMULAS, *PLAIN, None]


def answers(first: int, count: int) -> pa.Table:
    """Rows as results have them: numbers, words that repeat, lists of structs, and none at all."""
    rows = np.arange(first, first + count)
    ranked = [[{"label": "a", "index": 0, "confidence": 0.5}] * (row % 3) for row in rows]
    columns = {"row": rows, "label": np.array(["a", "b"])[rows % 2], "confidence": rows / 7, "abstain": rows % 5 == 0}
    error = pa.array([{"code": "x"} if row % 9 == 0 else None for row in rows], pa.struct({"code": pa.string()}))
    return pa.table({**columns, "top_k": pa.array(ranked), "error": error})


def parts(folder: Path, *sizes: int) -> list[Path]:
    """Files of neighbouring rows, each of several groups."""
    paths, first = [], 0
    for number, size in enumerate(sizes):
        paths.append(folder / f"{number}.parquet")
        blocks = [answers(row, min(7, first + size - row)) for row in range(first, first + size, 7)]
        assert write_results(paths[-1], blocks) == size
        first += size
    return paths


def test_a_joined_file_is_the_rows_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of Parquet find every row and group of the parts, and every page has its checksum."""
    monkeypatch.setattr(result_tables, "GROUP_ROWS", 7)
    paths = parts(tmp_path, 50, 1, 49)
    pieces = list(parquet(map(pq.ParquetFile, paths)))
    whole = b"".join(pieces)
    found = pq.ParquetFile(io.BytesIO(whole), page_checksum_verification=True)
    assert found.read().equals(answers(0, JOINED_ROWS))
    assert found.num_row_groups == sum(pq.ParquetFile(path).num_row_groups for path in paths) == len(pieces) - 1
    damaged = bytearray(whole)
    damaged[100] ^= 1
    with pytest.raises(OSError, match="checksum"):
        pq.ParquetFile(io.BytesIO(bytes(damaged)), page_checksum_verification=True).read()
