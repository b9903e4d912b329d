"""Files on their way: what is given as an object is written into a folder that lives as long as it is sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from fedlas.client.conversions import Sendable, dataset_file, model_file, scores_file
from fedlas.client.errors import InvalidInput


def sending_model(model: Any, **options: Any) -> AbstractContextManager[Sendable]:
    """The file of a model for the block; raises ConversionError."""
    return _sending(model, model_file, "a model is needed: a path, a module, or an estimator", options)


def sending_dataset(data: Any, **options: Any) -> AbstractContextManager[Sendable]:
    """The file of a dataset for the block; raises ConversionError."""
    return _sending(data, dataset_file, "a dataset is needed: a path, arrays, or a data frame", options)


@contextmanager
def _sending(given: Any, convert: Callable[..., Sendable], needed: str, options: dict[str, Any]) -> Iterator[Sendable]:
    if given is None:
        raise InvalidInput("nothing_to_send", f"{needed}; found None")
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        yield convert(given, Path(folder), **options)


@contextmanager
def sending_scores(path: Any, arrays: dict[str, Any]) -> Iterator[Sendable]:
    """The file of scores for the block: the given one, or an npz of the given arrays."""
    given = {name: array for name, array in arrays.items() if array is not None}
    if (path is None) == (not given):
        message = "either a file of scores is needed, or arrays: logits or probabilities, and labels"
        raise InvalidInput("nothing_to_send", message)
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        yield scores_file(path, given, Path(folder))
