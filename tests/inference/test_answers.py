"""Outputs become answers with the right values, sessions are kept within a limit, results are read by pages."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fedlas.selective import Guarantees
from service.inference.answers import AnswerOptions, answer, needed_outputs
from service.inference.engine import Engine
from service.inference.results import read_page, write_results
from service.registry.artifacts import ArtifactStore
from service.registry.errors import InvalidRequest, NotFound

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 0.5, 0.4]], dtype=np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    exponents = np.exp(logits.astype(np.float64))
    result: np.ndarray = exponents / exponents.sum(1, keepdims=True)
    return result


def outputs(logits: np.ndarray = LOGITS, temperature: float = 2.0) -> dict[str, np.ndarray]:
    """What a calibrated file computes."""
    probs = softmax(logits / temperature).astype(np.float32)
    return {"logits": logits, "probabilities": probs, "confidence": probs.max(1)}


def test_values_of_an_answer() -> None:
    """Label, index and confidence come from the calibrated side, the uncalibrated confidence from the logits."""
    given = outputs()
    first, second = answer(given, {"class_names": ["a", "b", "c"], "task": "multiclass"}, AnswerOptions())
    assert (first["label"], first["index"], second["label"], second["index"]) == ("a", 0, "b", 1)
    assert first["confidence"] == pytest.approx(softmax(LOGITS / 2)[0, 0], abs=1e-6)
    assert first["uncalibrated_confidence"] == pytest.approx(softmax(LOGITS)[0, 0], abs=1e-12)
    assert (first["abstain"], second["abstain"]) == (False, False)
    assert not {"probability", "top_k"} & set(first)


def test_abstaining_and_ranking() -> None:
    """An answer abstains strictly below the threshold; `top_k` is sorted, and never longer than the classes."""
    given = outputs()
    threshold = float(given["confidence"][0])
    answers = answer(given, {"class_names": ["a", "b", "c"]}, AnswerOptions(top_k=5, abstain_below=threshold))
    assert [item["abstain"] for item in answers] == [False, True]
    assert [item["label"] for item in answers[1]["top_k"]] == ["b", "c", "a"]
    assert sum(item["confidence"] for item in answers[1]["top_k"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("positive", "column"), [(None, 1), ("bad", 1), ("good", 0)])
def test_probability_of_the_positive_class(positive: str | None, column: int) -> None:
    """A binary model tells the probability of its positive class, the second one unless somebody said otherwise."""
    given = outputs(LOGITS[:, :2])
    profile = {"class_names": ["good", "bad"], "task": "binary", "positive_class": positive}
    found = [item["probability"] for item in answer(given, profile, AnswerOptions())]
    assert found == given["probabilities"][:, column].tolist()


@pytest.mark.parametrize(("positive", "expected"), [(None, ["good", "bad"]), ("good", ["good", "good"])])
def test_deciding_by_a_threshold(positive: str | None, expected: list[str]) -> None:
    """The positive class is decided for from the threshold on, whatever the label is."""
    given = outputs(np.array([[2.0, 0.0], [0.0, 0.5]], dtype=np.float32))
    profile = {"class_names": ["good", "bad"], "task": "binary", "positive_class": positive}
    at = float(given["probabilities"][:, 0 if positive else 1].min() if positive else given["probabilities"][1, 1])
    found = answer(given, profile, AnswerOptions(decision={"threshold": at}))
    assert [item["decision"] for item in found] == expected
    assert [item["label"] for item in found] == ["good", "bad"]


def test_deciding_by_costs() -> None:
    """The class with the lowest expected cost is decided for: missing an x costs ten times what a false alarm does."""
    given = outputs(np.log(np.array([[0.2, 0.8], [0.05, 0.95]])).astype(np.float32), temperature=1.0)
    options = AnswerOptions(decision={"costs": [[0, 1], [10, 0]]})
    found = answer(given, {"class_names": ["x", "y"]}, options)
    assert [item["decision"] for item in found] == ["x", "y"], "10 * 0.2 > 0.8, 10 * 0.05 < 0.95"


def test_promises_of_an_answer() -> None:
    """Threshold and sets are those of the guarantees, familiarity is passed on, and NaN counts as unfamiliar."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 3)).astype(np.float32) * 3
    probs = outputs(scores)["probabilities"]
    targets = (probs.cumsum(1) > rng.random((400, 1))).argmax(1)
    guarantees = Guarantees.fit(probs, targets, class_names=list("abc"))
    profile = {"class_names": list("abc"), "guarantees": guarantees.as_dict(), "familiarity": {"score": "norm"}}
    given = {**outputs(), "familiarity": np.array([0.25, np.nan], dtype=np.float32)}
    assert set(needed_outputs(profile)) == set(given)
    assert "familiarity" not in needed_outputs({"class_names": []})
    found = answer(given, profile, AnswerOptions(max_error=0.4, coverage={"class": 0.6}))
    threshold = guarantees.threshold_for(0.4)
    sets = guarantees.prediction_sets(given["probabilities"], {"class": 0.6})
    for item, confidence, inside in zip(found, given["confidence"], sets, strict=True):
        assert item["abstain"] == (confidence < threshold)
        assert set(item["prediction_set"]) == {name for name, member in zip("abc", inside, strict=True) if member}
    assert [item["familiarity"] for item in found] == [0.25, 0.0]


def test_huge_logits_do_not_overflow() -> None:
    """Logits far beyond exp's range have a confidence of one, without a warning."""
    given = outputs()
    given["logits"] = np.array([[1e4, 0.0, 0.0], [0.0, 0.0, 5e4]], dtype=np.float32)
    found = answer(given, {"class_names": ["a", "b", "c"]}, AnswerOptions())
    assert [item["uncalibrated_confidence"] for item in found] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["logits", "confidence"])
def test_no_number_is_no_answer(name: str) -> None:
    """Where the model computes NaN or infinity the row is named, since JSON has no word for it."""
    given = outputs()
    given[name][1] = np.nan
    with pytest.raises(InvalidRequest, match="row 1") as caught:
        answer(given, {"class_names": ["a", "b", "c"]}, AnswerOptions())
    assert caught.value.code == "non_finite_output"


def scaling_model(factor: float) -> bytes:
    """y = factor · x, under the standard names."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])]
    names = ("logits", "probabilities", "confidence")
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in names]
    weight = onnx.numpy_helper.from_array(np.array([factor], dtype=np.float32), "f")
    nodes = [helper.make_node("Mul", ["x", "f"], [name]) for name in names]
    graph = helper.make_graph(nodes, "g", inputs, outs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """An empty store."""
    return ArtifactStore(tmp_path)


def kept(store: ArtifactStore, content: bytes) -> str:
    """Store and return the digest."""
    with store.stage_bytes(content) as staged:
        return staged.keep()


def run(engine: Engine, digest: str) -> float:
    """Run one row; the factor is the answer."""
    rows = np.ones((1, 2), dtype=np.float32)
    return float(engine.run(digest, {"x": rows})["logits"][0, 0])


def test_least_recently_used_sessions_go_first(store: ArtifactStore) -> None:
    """Within the limit sessions stay open; beyond it the one that was not used for longest is closed."""
    digests = [kept(store, scaling_model(factor)) for factor in (1, 2, 3)]
    size = store.path(digests[0]).stat().st_size
    engine = Engine(store, cache_bytes=2 * size)
    assert [run(engine, digest) for digest in (*digests[:2], digests[0])] == [1, 2, 1]
    first, second = (weakref.ref(engine._session(digest)) for digest in (digests[0], digests[1]))
    assert run(engine, digests[0]) == 1
    assert run(engine, digests[2]) == 3
    gc.collect()
    assert first() is not None
    assert second() is None
    assert run(engine, digests[1]) == 2, "a session that was closed is opened again"


def test_a_model_larger_than_the_limit_still_runs(store: ArtifactStore) -> None:
    """The limit bounds what is kept, not what can be served."""
    engine = Engine(store, cache_bytes=1)
    digests = [kept(store, scaling_model(factor)) for factor in (4, 5)]
    assert [run(engine, digest) for digest in digests * 2] == [4, 5, 4, 5]


def test_threads_share_the_engine(store: ArtifactStore) -> None:
    """Many threads and a cache too small for all models: every answer is that of its own model."""
    engine = Engine(store, cache_bytes=1)
    digests = {float(factor): kept(store, scaling_model(factor)) for factor in range(1, 6)}
    with ThreadPoolExecutor(8) as pool:
        asked = list(digests) * 20
        assert list(pool.map(lambda factor: run(engine, digests[factor]), asked)) == asked


def test_missing_file_and_refused_rows(store: ArtifactStore) -> None:
    """A file that is gone is NotFound; rows that the graph cannot compute are the sender's error."""
    engine = Engine(store, cache_bytes=10**9)
    with pytest.raises(NotFound):
        run(engine, "0" * 64)
    digest = kept(store, scaling_model(1))
    with pytest.raises(InvalidRequest) as caught:
        engine.run(digest, {"x": np.ones((1, 3), dtype=np.float32)})
    assert (caught.value.code, caught.value.field) == ("inputs_refused", "inputs")
    assert run(engine, digest) == 1


def test_results_keep_everything(tmp_path: Path) -> None:
    """Sets, decisions and familiarity come back from the file as they were; what was not asked for is null."""
    path = tmp_path / "results.parquet"
    full = {
        "label": "a", "index": 0, "confidence": 0.5, "uncalibrated_confidence": 0.75, "abstain": True,
        "probability": 0.5, "familiarity": 0.125, "top_k": [{"label": "a", "index": 0, "confidence": 0.5}],
        "prediction_set": ["a", "b"], "decision": "b",
    }  # fmt: skip
    empty = {**full, "prediction_set": []}
    bare = {key: full[key] for key in ("label", "index", "confidence", "uncalibrated_confidence", "abstain")}
    assert write_results(path, iter([[full, empty], [bare]])) == 3
    rows, _ = read_page(path, start=0, limit=10)
    assert rows[:2] == [{"row": 0, **full}, {"row": 1, **empty}]
    assert rows[2] == {**dict.fromkeys(full), **bare, "row": 2}


def blocks(sizes: list[int]) -> Iterator[list[dict[str, Any]]]:
    """Predictions whose confidence is their number."""
    number = 0
    for size in sizes:
        block = []
        for _ in range(size):
            block.append(
                {
                    "label": "a",
                    "index": 0,
                    "confidence": float(number),
                    "uncalibrated_confidence": 0.5,
                    "abstain": False,
                }
            )
            number += 1
        yield block


@pytest.mark.parametrize("limit", [1, 4, 5, 7, 100])
def test_pages_of_results_are_complete(tmp_path: Path, limit: int) -> None:
    """Pages of any size, over blocks of any size, give every row once and in order."""
    path = tmp_path / "results.parquet"
    assert write_results(path, blocks([5, 5, 1, 3])) == 14
    rows: list[Any] = []
    has_more = True
    while has_more:
        page, has_more = read_page(path, start=len(rows), limit=limit)
        assert 0 < len(page) <= limit
        rows += page
    assert [row["row"] for row in rows] == list(range(14))
    assert [row["confidence"] for row in rows] == list(map(float, range(14)))
    assert rows[0]["top_k"] is None
    assert read_page(path, start=14, limit=limit) == ([], False)
