"""The writer of JSON rows: one object for each row, as `/v1` answers them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import orjson

from service.inference.predictions import Predictions

#: Classes of a single row that Python ranks in less time than numpy's calls take.
_FEW_CLASSES = 100


def json_rows(predictions: Predictions) -> list[dict[str, object]]:
    """One object for each row, with the fields that the policy asks for."""
    policy = predictions.policy
    names, threshold = policy.profile.class_names, policy.threshold
    rows: list[dict[str, object]] = [
        {
            "label": names[index],
            "index": index,
            "confidence": confidence,
            "uncalibrated_confidence": uncalibrated,
            "abstain": confidence < threshold,
        }
        for index, confidence, uncalibrated in zip(
            predictions.index.tolist(),
            predictions.confidence.tolist(),
            predictions.uncalibrated_confidence.tolist(),
            strict=True,
        )
    ]
    if (probability := predictions.probability) is not None:
        _add(rows, "probability", probability.tolist())
    if (familiarity := predictions.familiarity) is not None:
        _add(rows, "familiarity", familiarity.tolist())
    if policy.options.top_k is not None:
        _add(rows, "top_k", _top_k(predictions, policy.options.top_k))
    if policy.options.coverage is not None:
        classes, sizes = policy.sets(predictions.probabilities)
        members = [names[index] for index in classes.tolist()]
        ends = [0, *sizes.cumsum().tolist()]
        _add(rows, "prediction_set", [members[begin:end] for begin, end in pairwise(ends)])
    if (decision := predictions.decision) is not None:
        _add(rows, "decision", [names[index] for index in decision.tolist()])
    if policy.options.probabilities:
        _add(rows, "probabilities", predictions.probabilities.tolist())
    return rows


def write_json(predictions: Predictions, model: bytes) -> bytes:
    """The body of an answer; `model` is the JSON of the model that predicts."""
    policy = predictions.policy
    said, share = policy.shift.said, policy.answered_share
    more = b"" if said is None else b',"class_priors":' + said
    more += b"" if share is None else b',"answered_share":' + orjson.dumps(share)
    more += b',"class_names":' + orjson.dumps(list(policy.profile.class_names)) if policy.options.probabilities else b""
    return b'{"model":%b%b,"predictions":%b}' % (model, more, orjson.dumps(json_rows(predictions)))


def _add(rows: list[dict[str, object]], name: str, column: Sequence[object]) -> None:
    for row, value in zip(rows, column, strict=True):
        row[name] = value


def _top_k(predictions: Predictions, k: int) -> list[list[dict[str, object]]]:
    names, probs = predictions.policy.profile.class_names, predictions.probabilities
    if len(probs) == 1 and probs.shape[1] <= _FEW_CLASSES:
        row = probs[0].tolist()
        best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]
        return [[{"label": names[index], "index": index, "confidence": row[index]} for index in best]]
    return [
        [
            {"label": names[index], "index": index, "confidence": confidence}
            for index, confidence in zip(indices, confidences, strict=True)
        ]
        for indices, confidences in zip(predictions.best.tolist(), predictions.best_confidence.tolist(), strict=True)
    ]
