"""Trials are bounded whatever the sizes and types of inputs, and none ends a job."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any, cast

import numpy as np
import pytest
from onnx import helper

from fedlas.importers import GraphClassifier
from fedlas.importers.onnx.graph import Graph
from fedlas.preconditions.answers import worse_than_frequencies
from fedlas.preconditions.class_rows import leaking_column
from fedlas.preconditions.column_remedies import (
    described_order,
    expected_remedies,
    moves,
    number_of_moves,
    token_remedies,
)
from fedlas.preconditions.graph_statistics import Expected, expected_inputs, vocabularies
from fedlas.preconditions.inputs import search_columns
from fedlas.preconditions.signs import same_answers
from fedlas.preconditions.trials import Trials, best_order
from tests.helpers.matches import examined


class OnlyGraph:
    """A classifier of which nothing but the graph is read."""

    def __init__(self, nodes: list[Any], constants: dict[str, Any]) -> None:
        self._graph = Graph(nodes, constants, [], ["y"], 17, [], 8)

    def graph(self) -> Graph:
        return self._graph


def only_graph(*nodes: Any, **constants: Any) -> GraphClassifier:
    return cast(GraphClassifier, OnlyGraph(list(nodes), constants))


@pytest.mark.parametrize("width", [2, 3, 12, 13, 40, 41, 100])
def test_moves_are_counted_before_they_are_made(width: int) -> None:
    """The count is that of the orders."""
    assert number_of_moves(width) == len(list(moves(width)))


def test_nothing_is_searched_in_very_wide_tables() -> None:
    """The orders of 6,000 columns would take 0.3 GB."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 200)
    trials = Trials(examined(np.eye(2)[targets], targets, inputs=rng.normal(size=(200, 6000)).astype(np.float32)))
    tracemalloc.start()
    assert search_columns(trials, 0, "'x'", None, None) is None
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_no_order_is_assigned_to_very_wide_tables() -> None:
    """Their assignment takes the cube of their width: other remedies are still tried."""
    rows = np.random.default_rng(0).normal(size=(50, 3000)) + np.arange(3000)
    expected = Expected(3000)
    expected.centre, expected.spread = np.roll(np.arange(3000.0), 1), np.ones(3000)
    names = [remedy.name for remedy in expected_remedies(0, "'x'", rows, expected, None)]
    assert "order_columns" not in names
    assert "column_unit" in names


def test_ten_thousand_classes_keep_their_order() -> None:
    """Their confusion alone would take 800 MB."""
    logits = np.zeros((2, 10_000), np.float32)
    tracemalloc.start()
    assert (best_order(logits, np.array([1, 2])) == np.arange(10_000)).all()
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_flat_images_of_bytes_are_no_tokens() -> None:
    """Only masks have as narrow a type as they."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 64)).astype(np.uint8)
    assert list(token_remedies(["x"], [pixels], {})) == []


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int32, np.int64])
def test_ids_of_any_type_are_shifted_in_it(dtype: type[Any]) -> None:
    """A shift below zero has no room in unsigned types."""
    ids = np.random.default_rng(0).integers(0, 30, (50, 9)).astype(dtype)
    made = {remedy.name: remedy.change([ids])[0] for remedy in token_remedies(["ids"], [ids], {})}
    assert made["shift_ids_-1"].dtype == dtype
    assert (made["shift_ids_-1"] == np.maximum(ids.astype(np.int64) - 1, 0)).all()
    assert (made["shift_ids_+3"] == np.minimum(ids + 3, 29)).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float32])
def test_an_inverted_mask_keeps_its_type(dtype: type[Any]) -> None:
    """The graph takes no other."""
    mask = np.array([[1, 1, 0], [1, 0, 0]]).astype(dtype)
    (inverted,) = (remedy for remedy in token_remedies(["mask"], [mask], {}) if remedy.name == "invert_mask")
    (made,) = inverted.change([mask])
    assert made.dtype == dtype
    assert made.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_a_change_that_fails_is_passed_over() -> None:
    """Not only the classifier may be unable to take it."""
    targets = np.arange(200) % 2
    trials = Trials(examined(np.eye(2)[targets], targets))

    def overflows(rows: list[Any]) -> list[Any]:
        return [np.array([1], np.uint8) + (-1) for _ in rows]

    assert trials.answers(trials.judged, overflows) is None


def test_ids_are_never_looked_up_outside_of_a_table() -> None:
    """On a GPU that is the end of the process: words in the place of segments, of which there are two."""
    rng = np.random.default_rng(0)
    ids, segments = rng.integers(0, 30, (50, 9)), rng.integers(0, 2, (50, 9))
    ids[0, 0] = 29

    def exchange(**sizes: int) -> Any:
        made = token_remedies(["ids", "segments"], [ids, segments], sizes)
        (found,) = (remedy for remedy in made if remedy.name == "exchange_inputs")
        return found.change

    for sizes in ({}, {"ids": 30, "segments": 2}):
        with pytest.raises(IndexError):
            exchange(**sizes)([ids, segments])
    assert (exchange(ids=30, segments=30)([ids, segments])[0] == segments).all()
    with pytest.raises(IndexError):
        exchange(ids=30, segments=30)([ids, segments - 1])


def test_the_size_of_a_table_is_read_from_the_graph() -> None:
    """The size is found behind a cast, too; of ids that are looked up nowhere nothing is known."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=7),
        helper.make_node("Gather", ["table", "wide"], ["words"]),
        helper.make_node("Mul", ["words", "mask"], ["y"]),
    ]
    assert vocabularies(only_graph(*nodes, table=np.zeros((60, 4), np.float32)), ["ids", "mask"]) == {"ids": 60}


@pytest.mark.parametrize(
    ("layout", "axis", "chosen"),
    [
        ((10, (1, -2)), 1, [10]),  # out of range
        ((1, None), 1, [5]),  # rows (N, 10, 4) without channels
        ((3, (1, -3)), -1, [20, 21]),  # NCHW: these are no channels
        ((3, (1, -3)), 1, 2),  # one channel alone: the axis is gone
    ],
)
def test_what_chooses_no_columns_tells_nothing_of_them(layout: Any, axis: int, chosen: Any) -> None:
    """A Gather on another axis, or beyond the columns, is where the walk ends."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Gather", ["scaled", "chosen"], ["part"], axis=axis),
        helper.make_node("Sub", ["part", "mean"], ["y"]),
    ]
    graph = only_graph(*nodes, factor=np.float32(0.5), chosen=np.array(chosen), mean=np.float32(4))
    assert expected_inputs(graph, {"x": layout})["x"].centre.tolist() == [0.0] * layout[0]


def test_chosen_columns_are_followed() -> None:
    """Columns that are chosen by either name of their axis, also counted from the last, are followed."""
    for axis in (1, -1):
        nodes = [
            helper.make_node("Gather", ["x", "chosen"], ["part"], axis=axis),
            helper.make_node("Sub", ["part", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "spread"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "weights"], ["y"]),
        ]
        constants = {"chosen": np.array([2, -4]), "mean": np.array([5.0, 7.0]), "spread": np.array([2.0, 3.0])}
        found = expected_inputs(only_graph(*nodes, **constants), {"x": (4, (1, -1))})["x"]
        assert np.nan_to_num(found.centre, nan=-1).tolist() == pytest.approx([7.0, -1.0, 5.0, -1.0])
        assert found.known.tolist() == [True, False, True, False]


def test_many_scores_are_compared_on_some_rows() -> None:
    """The notice on 4 million scores that tell nothing of the labels comes within seconds."""
    rng = np.random.default_rng(0)
    match = examined(9 * rng.normal(size=(4000, 1000)), rng.integers(0, 1000, 4000))
    start = time.thread_time()
    (notice,) = worse_than_frequencies(match)
    assert time.thread_time() - start < 3
    assert notice.code == "worse_than_frequencies"
    assert notice.evidence["frequencies_nll"] == pytest.approx(np.log(1000), rel=0.05)


def test_long_names_leave_room_in_an_event() -> None:
    """A notice is read as an event of at most 16 KiB."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 400)
    rows = np.stack([targets, rng.normal(size=400)], axis=1).astype(np.float32)
    columns = ["a" * 20_000, "b" * 20_000]
    (notice,) = leaking_column(examined(np.eye(2)[targets], targets, inputs=rows, columns=columns))
    assert len(notice.model_dump_json()) < 1000
    assert len(described_order(np.array([1, 0]), columns, "'x'")) < 250
    (sign,) = same_answers(examined(np.eye(2)[0 * targets], targets, class_names=columns))
    assert len(sign.model_dump_json()) < 1000


def test_many_classes_are_judged_on_fewer_rows() -> None:
    """Losses of 4,000 rows with 10,000 classes at all temperatures would take a quarter of a minute."""
    rng = np.random.default_rng(0)
    match = examined(rng.normal(size=(4000, 10_000)).astype(np.float32), rng.integers(0, 10_000, 4000))
    start = time.thread_time()
    trials = Trials(match)
    assert time.thread_time() - start < 5
    assert (len(trials.screened[0]), len(trials.judged[0])) == (50, 50)
