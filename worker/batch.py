"""Batch predictions, inside the sandbox: the served copy over every row of a prepared dataset, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedlas.data import align_inputs, load_dataset
from fedlas.errors import Mismatch
from fedlas.preprocessing import Preprocessing
from service.inference.answers import AnswerOptions, answer, check_options, needed_outputs
from service.inference.results import write_results
from service.inference.runtime import REFUSALS, open_session, refusal
from service.registry.errors import InvalidRequest

Json = dict[str, Any]
Emit = Callable[[Json], None]

_BLOCK_ROWS = 4096


def predict(spec: Json, folder: Path, emit: Emit) -> Json:
    """Predict all rows in the order of the owner's file and leave them in `results.parquet`."""
    profile = spec["model"]["profile"]
    dataset = load_dataset(spec["dataset"]["file"])
    given = profile.get("preprocessing")
    preprocessing = None if given is None else Preprocessing.parse(given)
    inputs = align_inputs(dataset.inputs, profile["inputs"], preprocessing=preprocessing, scratch=folder)
    num_rows, order = len(dataset), dataset.in_file_order()
    session = open_session(spec["model"]["file"], threads=os.cpu_count() or 1)
    options, names = AnswerOptions(**spec["options"]), needed_outputs(profile)
    _check(profile, options)

    def blocks() -> Iterator[list[Json]]:
        for start in range(0, num_rows, _BLOCK_ROWS):
            rows = order[start : start + _BLOCK_ROWS]
            block = {name: array[rows] for name, array in inputs.items()}
            try:
                outputs = dict(zip(names, session.run(list(names), block), strict=True))
                yield answer(outputs, profile, options)
            except REFUSALS as error:
                raise Mismatch("inputs_refused", f"from row {start} on: {refusal(error)}") from error
            except InvalidRequest as error:
                raise Mismatch(error.code, f"counted from row {start}: {error.message}") from error
            emit({"progress": {"fraction": round(min(1.0, (start + _BLOCK_ROWS) / num_rows), 4)}})

    write_results(folder / "results.parquet", blocks())
    return {"results": "results.parquet", "num_rows": num_rows}


def _check(profile: Json, options: AnswerOptions) -> None:
    """What could not be checked when the batch was ordered, because the model was still being inspected."""
    try:
        check_options(profile, options)
    except InvalidRequest as error:
        raise Mismatch(error.code, error.message) from error
