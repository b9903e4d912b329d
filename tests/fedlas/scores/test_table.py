"""Tables of scores: whatever people have is read, and what is wrong is named with its place."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedlas.errors import BadDataset
from fedlas.scores.table import read_columns, table_of

SCORES = [8.2, None, 3.0, 9.0, 7.0, 1.0, 2.0, 5.5, 6.0, 4.0]
LABELS = [1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
PATH = Path("rows")
CELLS = [
    "1_000",
    "\uff11",
    "0x10",
    "1e308",
    "-1e999",
    "NA",
    "true",
    " 7 ",
    "1,5",
    "9/10",
    "97 %",
    "\u0664",
    "1e-320",
    '"',
    "\r",
]


def as_csv(path: Path) -> None:
    lines = (f"{'' if score is None else score},{label}\n" for score, label in zip(SCORES, LABELS, strict=True))
    path.write_text("score,label\n" + "".join(lines))


def as_ndjson(path: Path) -> None:
    path.write_text("".join(json.dumps({"score": s, "label": y}) + "\n" for s, y in zip(SCORES, LABELS, strict=True)))


def as_json(path: Path) -> None:
    path.write_text(json.dumps({"score": SCORES, "label": LABELS}))


def as_parquet(path: Path) -> None:
    pq.write_table(pa.table({"score": pa.array(SCORES, pa.float64()), "label": LABELS}), path)


def as_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, score=np.array(SCORES, float), label=LABELS)


@pytest.mark.parametrize("write", [as_csv, as_ndjson, as_json, as_parquet, as_npz])
def test_every_format_is_the_same_table(tmp_path: Path, write) -> None:
    """Five formats hold the same scores, of which one is missing, and the same labels."""
    write(tmp_path / PATH)
    columns = read_columns(tmp_path / PATH)
    assert columns is not None
    table = table_of(columns)
    np.testing.assert_array_equal(table.signals["score"], np.array(SCORES, float))
    assert table.right.tolist() == LABELS


def test_the_scores_of_classes_are_left_to_others(tmp_path: Path) -> None:
    """A file of logits is no table of one score."""
    (tmp_path / PATH).write_text("logit_0,logit_1,label\n1,2,0\n")
    assert read_columns(tmp_path / PATH) is None


def columns(**changed: object) -> dict[str, np.ndarray]:
    plain = {"score": np.arange(12.0), "label": np.arange(12) % 2}
    return {name: np.asarray(values) for name, values in {**plain, **changed}.items() if values is not None}


def test_words_are_outcomes() -> None:
    """Usual words for right and wrong are known; others are told apart by `outcomes`."""
    table = table_of(columns(label=["No", "yes"] * 6))
    assert (table.outcomes, table.right.tolist()) == (("No", "yes"), [0, 1] * 6)
    table = table_of(columns(label=["cat", "dog"] * 6), outcomes=("dog", "cat"))
    assert (table.outcomes, table.right.tolist()) == (("dog", "cat"), [1, 0] * 6)


def test_roles_are_kept_apart() -> None:
    """Slices, groups, times and weights are no signals; weights have a mean of 1, and unused columns are told."""
    table = table_of(
        columns(
            score=None,
            signal_a=np.ones(12),
            slice=["x", "y"] * 6,
            group=np.arange(12),
            weight=np.full(12, 3),
            note=["n"] * 12,
        )
    )
    assert list(table.signals) == ["signal_a"]
    assert table.weights.tolist() == [1.0] * 12
    assert table.warnings[0].startswith("These columns were not used: note.")


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"score": [1.0] * 11 + [np.inf]}, "non_finite", "inf in row 11"),
        ({"score": ["high"] * 12}, "bad_scores", "'high' in row 0"),
        ({"label": ["cat", "dog"] * 6}, "bad_labels", "class_names=WRONG,RIGHT"),
        ({"label": np.arange(12)}, "bad_labels", "labels are 0 and 1"),
        ({"label": [np.nan] + [1.0] * 11}, "bad_labels", "row 0"),
        ({"score": None}, "no_scores", "signal_…"),
        ({"signal_a": np.ones(12)}, "ambiguous_scores", "score, signal_a"),
        ({"score": np.arange(9.0), "label": np.arange(9) % 2}, "too_few_rows", "expected 10"),
        ({"score": np.arange(11.0)}, "length_mismatch", "'score' has 11 rows"),
        ({"group": ["a"] * 11 + [""]}, "bad_role", "row 11"),
        ({"weight": np.full(12, -1.0)}, "bad_weights", "not negative"),
    ],
)
def test_bad_columns(changed: dict, code: str, said: str) -> None:
    """A column that cannot be read is refused with a code and a sentence that names what was found."""
    with pytest.raises(BadDataset) as caught:
        table_of(columns(**changed))
    assert caught.value.code == code
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", '{"score": 3}', '{"score": [[1]], "label": [1]}', "{", '[{"a": 1}, 3]'])
def test_bad_json(tmp_path: Path, text: str) -> None:
    """JSON that holds no rows is refused in words, not by an exception of the parser."""
    (tmp_path / PATH).write_text(text)
    with pytest.raises(BadDataset):
        read_columns(tmp_path / PATH)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=12) | st.sampled_from(CELLS), column=st.sampled_from(["score", "label", "slice", "weight"])
)
@example(text="1_000", column="score")
@example(text="\uff11", column="score")
@example(text="007", column="score")
@example(text="1e308", column="slice")
def test_any_text_in_any_cell_is_a_table_or_a_sentence(tmp_path: Path, text: str, column: str) -> None:
    """A cell of a csv or JSON file that nobody foresaw is read, or refused with a code: no other error comes of it."""
    named = {name: np.asarray(values).astype(str).tolist() for name, values in columns(slice=["x", "y"] * 6).items()}
    named["weight"] = ["1"] * 12
    named[column] = [text, *named[column][1:]]
    lines = [",".join(named), *(",".join(map(quoted, row)) for row in zip(*named.values(), strict=True))]
    for content in ("\n".join(lines), json.dumps(named)):
        (tmp_path / PATH).write_text(content, "utf-8", errors="replace")
        with suppress(BadDataset):
            table = table_of(read_columns(tmp_path / PATH) or {})
            assert "-9223372036854775808" not in " ".join([*table.outcomes, *map(str, table.slices)])


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


@pytest.mark.parametrize("cell", ["1_000", "\uff11", "0x1_0"])
def test_the_cell_that_is_no_number_is_named(cell: str) -> None:
    """A cell that Python's float takes and the reader does not is found in its row."""
    with pytest.raises(BadDataset, match=f"'score' is '{cell}' in row 3") as raised:
        table_of(columns(score=[*["0.5"] * 3, cell, *["0.7"] * 8]))
    assert raised.value.code == "bad_scores"


def test_a_label_beyond_64_bits_is_named_as_it_is() -> None:
    """A label 1e308 is refused by its own name."""
    with pytest.raises(BadDataset, match=r"1e\+308"):
        table_of(columns(label=[1e308, *[1.0, 0.0] * 5, 1.0]))
