"""Files on their way: what is given as an object is written into a folder that lives as long as it is sent."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from fedlas.client.conversions import Sendable, dataset_file, model_file, scores_file
from fedlas.client.errors import InvalidInput
from fedlas.client.waiting import async_in_thread


def sending_model(model: Any, **options: Any) -> AbstractAsyncContextManager[Sendable]:
    """The file of a model for the block; raises ConversionError."""
    return _sending(model, model_file, "a model is needed: a path, a module, or an estimator", options)


def sending_dataset(data: Any, **options: Any) -> AbstractAsyncContextManager[Sendable]:
    """The file of a dataset for the block; raises ConversionError."""
    return _sending(data, dataset_file, "a dataset is needed: a path, arrays, or a data frame", options)


@asynccontextmanager
async def _sending(
    given: Any, convert: Callable[..., Sendable], needed: str, options: dict[str, Any]
) -> AsyncIterator[Sendable]:
    if given is None:
        raise InvalidInput("nothing_to_send", f"{needed}; found None")
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        yield await async_in_thread(convert, given, Path(folder), **options)


@asynccontextmanager
async def sending_scores(path: Any, arrays: dict[str, Any]) -> AsyncIterator[Sendable]:
    """The file of scores for the block: the given one, or an npz of the given arrays."""
    given = {name: array for name, array in arrays.items() if array is not None}
    if (path is None) == (not given):
        message = "either a file of scores is needed, or arrays: logits or probabilities, and labels"
        raise InvalidInput("nothing_to_send", message)
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        yield await async_in_thread(scores_file, path, given, Path(folder))
