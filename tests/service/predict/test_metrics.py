"""Counts of serving: against NumPy's own histograms, from many threads, and bounded whatever is called."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from service.predict.engine import metrics as module
from service.predict.engine.metrics import (
    ABSTENTIONS,
    BATCH_ROWS,
    COMPUTE_SECONDS,
    CONFIDENCE,
    OTHER,
    OUTCOMES,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    Buckets,
    ModelKey,
    ModelMetrics,
    OtherProcesses,
    Row,
    ServingMetrics,
    Totals,
)

NONE = Totals.of(())


def expected(values: np.ndarray, buckets: Buckets, weights: np.ndarray | None = None) -> list[float]:
    """The counts that NumPy has between the edges, upper edges inclusive: the mirror image of `np.histogram`."""
    edges = np.array([np.inf, *buckets.edges[::-1], -np.inf], dtype=values.dtype)
    return [*map(float, np.histogram(-values, -edges, weights=weights)[0][::-1])]


def counted(row: Row, buckets: Buckets) -> list[float]:
    """The buckets of a row."""
    return [*map(float, buckets.counts(row))]


@pytest.fixture
def serving() -> ServingMetrics:
    return ServingMetrics()


@pytest.fixture
def digits(serving: ServingMetrics) -> ModelMetrics:
    return serving.of("digits", "2", "mdl_a")


def test_requests_are_counted_as_numpy_counts_them(digits: ModelMetrics) -> None:
    """Times of answered requests fall into the buckets that NumPy puts them into; a time on an edge is within."""
    rng = np.random.default_rng(0)
    seconds = np.concatenate([rng.lognormal(-4, 2, 2000), REQUEST_SECONDS.edges])
    rows = rng.integers(1, 50, len(seconds))
    for one, count in zip(seconds.tolist(), rows.tolist(), strict=True):
        digits.request("ok", count, one, abstained=count // 2)
    row = digits.row()
    assert counted(row, REQUEST_SECONDS) == expected(seconds, REQUEST_SECONDS)
    assert row[REQUEST_SECONDS.sum] == pytest.approx(seconds.sum(), rel=1e-12)
    assert row[[REQUESTS["ok"], ROWS, ABSTENTIONS]].tolist() == [len(seconds), rows.sum(), (rows // 2).sum()]


def test_only_answers_have_rows_and_a_place_in_the_histogram(serving: ServingMetrics, digits: ModelMetrics) -> None:
    """A request that was not answered is counted by its outcome; its time stands apart."""
    for number, outcome in enumerate(OUTCOMES, start=1):
        for _ in range(number):
            digits.request(outcome, 7, 0.5, 3)
    row = digits.row()
    assert [row[REQUESTS[outcome]] for outcome in OUTCOMES] == [1, 2, 3, 4, 5, 6]
    assert (row[ROWS], row[ABSTENTIONS], REQUEST_SECONDS.counts(row).sum()) == (7, 3, 1)
    totals = serving.totals("digits", "2")
    assert (totals.requests_ok, totals.requests_failed, totals.rows) == (1, 20, 7)
    assert (totals.request_seconds, totals.failed_seconds) == (0.5, 10.0)


def test_batches_are_counted_as_numpy_counts_them(digits: ModelMetrics) -> None:
    """Waiting times count once for each request, in the bucket of the batch's mean; sizes and times once for each."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.integers(1, 20_000, 500), 2 ** np.arange(15)])
    requests = rng.integers(1, 40, len(rows))
    queued, took = rng.lognormal(-3, 2, len(rows)), rng.lognormal(-6, 2, len(rows))
    for batch in zip(rows.tolist(), requests.tolist(), queued.tolist(), took.tolist(), strict=True):
        digits.batch(*batch)
    row = digits.row()
    assert counted(row, QUEUE_SECONDS) == expected(queued / requests, QUEUE_SECONDS, weights=requests)
    assert counted(row, COMPUTE_SECONDS) == expected(took, COMPUTE_SECONDS)
    assert counted(row, BATCH_ROWS) == expected(rows.astype(float), BATCH_ROWS)
    sums = row[[QUEUE_SECONDS.sum, COMPUTE_SECONDS.sum, BATCH_ROWS.sum]]
    np.testing.assert_allclose(sums, [queued.sum(), took.sum(), rows.sum()], rtol=1e-12)


def test_totals_tell_batches_by_powers_of_two(serving: ServingMetrics, digits: ModelMetrics) -> None:
    """Each size of batch is counted under the next power of two, with how long its batches took."""
    for rows, requests, seconds in ((1, 1, 0.25), (1, 1, 0.5), (3, 2, 1.0), (4, 4, 2.0), (5, 1, 4.0), (99_999, 1, 8.0)):
        digits.batch(rows, requests, 0.5, seconds)
    totals = serving.totals("digits", "2")
    assert totals.batch_sizes == {1: (2, 0.75), 4: (2, 3.0), 8: (1, 4.0), 2**15: (1, 8.0)}
    assert (totals.batches, totals.batched_requests) == (6, 10)
    assert (totals.queue_seconds, totals.compute_seconds) == (3.0, 15.75)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confidences_are_counted_as_numpy_counts_them(digits: ModelMetrics, dtype: type) -> None:
    """In steps of 0.05, 0.99 and 1, upper edges inclusive as float32, whatever they come as."""
    values = np.concatenate([np.random.default_rng(2).beta(5, 1, 3000), CONFIDENCE.edges]).astype(np.float32)
    for part in np.array_split(values, [0, 1, 17, 273]):  # the first is empty
        digits.confidences(part.astype(dtype))
    row = digits.row()
    assert counted(row, CONFIDENCE) == expected(values, CONFIDENCE)
    assert row[CONFIDENCE.sum] == pytest.approx(values.sum(dtype=np.float64), rel=1e-12)


def test_a_confidence_that_is_no_number_spoils_nothing(digits: ModelMetrics) -> None:
    """NaN and infinity are left out, the other rows of the batch are not."""
    digits.confidences(np.array([0.5, np.nan, 0.75, np.inf], dtype=np.float32))
    row = digits.row()
    assert (CONFIDENCE.counts(row).sum(), row[CONFIDENCE.sum]) == (2, 1.25)


def test_nothing_is_lost_between_threads(serving: ServingMetrics) -> None:
    """Eight threads that count the same model and make others come to exactly what they counted."""
    begin = threading.Barrier(8)

    def count(number: int) -> None:
        begin.wait()
        for step in range(2000):
            model = serving.of("digits", "2", "mdl_a")
            model.request("ok", 1, 0.25)
            model.batch(2, 1, 0.5, 0.25)
            model.confidences(np.array([0.5], dtype=np.float32))
            serving.of(f"model {number} {step % 7}", "1", "mdl_b").request("ok", 1, 0.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    row = serving.own()[ModelKey("digits", "2", "mdl_a")]
    assert (row[REQUESTS["ok"]], row[REQUEST_SECONDS.sum]) == (16_000, 4000.0)
    assert (BATCH_ROWS.counts(row).sum(), row[QUEUE_SECONDS.sum]) == (16_000, 8000.0)
    assert (CONFIDENCE.counts(row).sum(), row[CONFIDENCE.sum]) == (16_000, 8000.0)
    assert len(serving.own()) == 1 + 8 * 7
    assert sum(totals.requests_ok for totals in serving.all_totals().values()) == 32_000


def test_a_name_is_counted_by_version_and_model(serving: ServingMetrics) -> None:
    """Each version has counts of its own; a version that was given to another model counts on under its name."""
    assert serving.of("digits", "2", "mdl_a") is serving.of("digits", "2", "mdl_a")
    for call, times in (
        (("digits", "1", "mdl_a"), 1),
        (("digits", "2", "mdl_a"), 2),
        (("digits", "2", "mdl_b"), 4),
        (("mdl_a", "2", "mdl_a"), 8),
    ):
        for _ in range(times):
            serving.of(*call).request("ok", 1, 0.0)
    told = {call: totals.requests_ok for call, totals in serving.all_totals().items()}
    assert told == {("digits", "1"): 1, ("digits", "2"): 6, ("mdl_a", "2"): 8}
    assert serving.totals("digits", "2").requests_ok == 6
    assert serving.totals("digits", "3") == NONE


def test_the_last_request_is_the_latest(serving: ServingMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest request of several processes is reported, in milliseconds; everything else is added up."""
    monkeypatch.setattr(module.time, "time", lambda: 1_700_000_000.25)
    serving.of("digits", "2", "mdl_a").request("ok", 1, 0.5)
    elsewhere = ServingMetrics()
    monkeypatch.setattr(module.time, "time", lambda: 1_600_000_000.0)
    elsewhere.of("digits", "2", "mdl_a").request("ok", 3, 0.25)
    elsewhere.gauge("fedlas_sessions_open", "Open.", lambda: 3)
    serving.gauge("fedlas_sessions_open", "Open.", lambda: 2)
    serving.others = lambda: OtherProcesses([elsewhere.own()], [elsewhere.own_gauges()])
    totals = serving.totals("digits", "2")
    only = replace(NONE, requests_ok=2, rows=4, request_seconds=0.75, last_request_at=1_700_000_000_250)
    assert totals == only
    assert serving.all_totals() == {("digits", "2"): only}
    counts, gauges = serving.everywhere()
    assert counts[ModelKey("digits", "2", "mdl_a")][ROWS] == 4
    assert [(gauge.name, value) for gauge, value in gauges] == [("fedlas_sessions_open", 5.0)]


def test_what_there_is_no_room_for_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit names are `OTHER`; when one was silent for an hour, the next new one takes its place."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    serving = ServingMetrics(most_models=2)
    old, busy = serving.of("old", "1", "mdl_a"), serving.of("busy", "1", "mdl_b")
    old.request("ok", 1, 0.0)
    for number in range(5):
        now[0] += 1000
        busy.request("ok", 1, 0.0)
        serving.of(f"new {number}", "1", "mdl_c").request("ok", 1, 0.0)
    counts = serving.own()
    # After 1, 2 and 3 times 1000 s there was no room; after 4 the old one went.
    assert {key.name: row[ROWS] for key, row in counts.items()} == {"busy": 5, "new 3": 1, OTHER.name: 4}
    old.request("ok", 10, 0.0)  # somebody still held it
    assert serving.own()[OTHER][ROWS] == 14
    assert serving.totals("old", "1") == NONE
    assert ("other", "") not in serving.all_totals()
