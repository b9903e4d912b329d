"""Files to be sent: a given one, or one that `fedlas.conversion` writes of an object for as long as it is sent."""

from __future__ import annotations

import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from fedlas.client.errors import FileError, InvalidInput
from fedlas.client.predictions import numpy_or_none
from fedlas.client.transfers import Source
from fedlas.model_files import pack, weight_files

_LOG = logging.getLogger("fedlas.client")


@dataclass(frozen=True)
class Sendable:
    """A file with what its conversion knows: `options` are the upload's parameters, `notes` say what was done."""

    path: Path
    name: str
    class_names: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_path(given: object) -> bool:
    return isinstance(given, str | PathLike)


@contextmanager
def sending(write: Callable[..., Sendable], given: Any, **options: Any) -> Iterator[Sendable]:
    """The file that one of the functions below finds or writes, for the block; raises ConversionError."""
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        yield write(given, Path(folder), **options)


def model_file(model: Any, folder: Path, **options: Any) -> Sendable:
    """The file of a model, a zip with its weights where they lie beside it; raises ConversionError, FileError."""
    if model is None:
        raise InvalidInput("nothing_to_send", "a model is needed: a path, a module, or an estimator; found None")
    if is_path(model) and options.get("architecture") is None:
        return _with_weights(_as_it_is(model), folder)
    from fedlas import conversion  # with it come torch, scikit-learn or pandas

    made = conversion.model_file(model, folder=folder, **options)
    _tell(made.notes)
    name = _as_it_is(model).name if is_path(model) else type(model).__name__
    return Sendable(made.path, name, made.class_names, dict(made.options), list(made.notes))


def dataset_file(data: Any, folder: Path, **options: Any) -> Sendable:
    """The file of a dataset; raises ConversionError."""
    if data is None:
        raise InvalidInput("nothing_to_send", "a dataset is needed: a path, arrays, or a data frame; found None")
    if is_path(data):
        return _as_it_is(data)
    from fedlas import conversion  # with it come torch, scikit-learn or pandas

    made = conversion.dataset_file(data, folder=folder, **options)
    found = {"roles": made.roles or None, "seen_by_model": made.seen_by_model}
    _tell(made.notes)
    return Sendable(made.path, "dataset", None, found, list(made.notes))


def example_of(data: Any, roles: Mapping[str, Any] | None) -> Any:
    """One batch of inputs, with which a module can be exported; None where only a file is given."""
    if data is None or is_path(data):
        return None
    from fedlas import conversion  # with it come torch, scikit-learn or pandas

    return conversion.example_of(data, roles=roles)


def _as_it_is(path: Any) -> Sendable:
    found = Path(path).expanduser()
    return Sendable(found, found.stem or found.name)


def _with_weights(graph: Sendable, folder: Path) -> Sendable:
    """The graph, or one file of it and of its weights, which must lie beside it under the name that it states."""
    Source(graph.path).close()  # what cannot be read at all is said first
    if not (names := weight_files(graph.path)):
        return graph
    weights = graph.path.parent / names[0]
    if names != [weights.name] or not weights.is_file():
        raise FileError(
            "external_data",
            f"{graph.path} keeps its weights in {' and '.join(names)}; needed is one such file beside it, in "
            f"{graph.path.absolute().parent}, or one file that is written where both are: "
            f'onnx.save(onnx.load("{graph.path.name}"), "one.onnx")',
        )
    whole = folder / "model.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        pack(archive, (graph.path.name, graph.path), (weights.name, weights))
    return replace(graph, path=whole)


def _tell(notes: list[str]) -> None:
    for note in notes:
        _LOG.info("%s", note)


def scores_file(path: Any, folder: Path, *, arrays: dict[str, Any]) -> Sendable:
    """The file as it is, or an npz of the arrays that are given; raises ConversionError."""
    given = {name: array for name, array in arrays.items() if array is not None}
    if (path is None) == (not given):
        raise InvalidInput(
            "nothing_to_send", "either a file of scores is needed, or arrays: logits or probabilities, and labels"
        )
    if path is not None:
        return _as_it_is(path)
    if (numpy := numpy_or_none()) is None:
        raise InvalidInput("no_numpy", "arrays of scores need NumPy (pip install numpy); or give a file")
    from fedlas.conversion.columns import as_array  # it needs NumPy

    written = folder / "scores.npz"
    numpy.savez(written, **{name: as_array(array, name) for name, array in given.items()})
    return Sendable(written, "scores")
