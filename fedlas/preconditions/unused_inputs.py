"""Unused inputs: inputs of a model whose values do not change its answers."""

from __future__ import annotations

import numpy as np

from fedlas.notice import Notice, shortened
from fedlas.preconditions.match import Examined
from fedlas.preconditions.trials import Trials

_ROWS = 64


def unused_inputs(examined: Examined, trials: Trials) -> list[Notice]:
    """A notice for each of several inputs that may be exchanged between rows without any effect."""
    if len(trials.judged) < 2:
        return []
    rows = [array[:_ROWS] for array in trials.judged]
    answers = trials.answers(rows)
    found = []
    for place, name in enumerate(examined.classifier.input_names):
        moved = np.roll(rows[place], len(rows[place]) // 2, axis=0)
        if answers is None or np.array_equal(moved, rows[place], equal_nan=moved.dtype.kind == "f"):
            continue  # what is the same in all rows tells nothing
        changed = trials.answers([moved if i == place else array for i, array in enumerate(rows)])
        if changed is not None and np.allclose(changed, answers, rtol=1e-5, atol=1e-6, equal_nan=True):
            sentence = (
                f"the answers do not depend on the input '{shortened(name)}': its values were exchanged between rows"
            )
            found.append(
                Notice(
                    "unused_input",
                    f"{sentence}, and every answer stayed",
                    {"input": shortened(name), "rows": len(moved)},
                )
            )
    return found if len(found) < len(rows) else []
