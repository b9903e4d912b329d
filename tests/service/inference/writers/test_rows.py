"""Whole results as text: csv that a spreadsheet may open, and lines of JSON that have every text as it is."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.inference.writers import rows as writers
from service.inference.writers.table import write_results

FORMULAS = ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
PLAIN = ["cat", "a=b", "", "'=1", "1-1"]


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
