"""The examination of a model and a dataset: all checks in turn, and what of their notices ends a job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from fedlas.contract.profiles import Notice
from fedlas.errors import PreconditionFailed
from fedlas.preconditions.answers import learnt_by_heart, one_hot_answers, softmax_twice, worse_than_frequencies
from fedlas.preconditions.class_rows import class_rows, rows_of_scores
from fedlas.preconditions.label_order import label_order
from fedlas.preconditions.trials import Answers, Examined

__all__ = ["Answers", "Examined", "examine", "require_accepted"]
Check: TypeAlias = Callable[[Any], Iterable[Notice]]
_LOG = logging.getLogger("fedlas.preconditions")
#: The code of an acceptance without a warning.
NOT_GIVEN = "warning_not_given"
_ORDERS = ("label_order", "labels_from_one")
#: How much more accurate answers are with a remedy of the inputs that makes another order of the classes needless.
_CLEARLY = 0.02


def inputs(examined: Examined) -> list[Notice]:
    """The check of the inputs, which loads PyTorch."""
    from fedlas.preconditions.inputs import inputs

    return inputs(examined)


#: In this order; what explains all the rest comes first. Scores have no inputs.
CHECKS: tuple[Check, ...] = (label_order, softmax_twice, learnt_by_heart, inputs, class_rows)
CHECKS_OF_SCORES: tuple[Check, ...] = (
    *(label_order, softmax_twice, one_hot_answers, learnt_by_heart),
    *(worse_than_frequencies, rows_of_scores),
)


def examine(examined: Answers) -> tuple[Notice, ...]:
    """The notices of all checks, one for each mistake."""
    checks = CHECKS if isinstance(examined, Examined) else CHECKS_OF_SCORES
    notices = [notice for check in checks for notice in _checked(check, examined)]
    if any(notice.code in _ORDERS for notice in notices):  # another order explains why the present one tells nothing
        notices = [notice for notice in notices if notice.code != "worse_than_frequencies"]
    explained = max((_number(notice, "accuracy_after") for notice in notices), default=0.0)
    # Wrong inputs leave answers that some other order of the classes always fits better, but never as well.
    return tuple(
        notice
        for notice in notices
        if notice.code not in _ORDERS or explained <= _number(notice, "accuracy_as_mapped") + _CLEARLY
    )


def _checked(check: Check, examined: Answers) -> list[Notice]:
    """The notices of one check; one that fails is a defect of ours, and no reason to refuse a job."""
    try:
        return list(check(examined))
    except Exception:
        _LOG.exception("a check of model and dataset has failed: %s", check.__name__)
        return []


def _number(notice: Notice, name: str) -> float:
    value = notice.evidence.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def may_promise(warnings: Iterable[Notice]) -> bool:
    """False for rows that trained, of which what is measured says nothing of others."""
    return all(notice.code != "training_rows" for notice in warnings)


def require_accepted(notices: Sequence[Notice], accepted: Iterable[str]) -> tuple[Notice, ...]:
    """The notices, where all errors among them are accepted, as warnings.

    Raises:
        PreconditionFailed: with the code of an error that is not accepted, or `warning_not_given` where something is
            accepted that was not found: an override that stands longer than its reason would hide the next mistake.
    """
    codes, wanted = {notice.code for notice in notices}, sorted(set(accepted))
    if unknown := [code for code in wanted if code not in codes]:
        given = ", ".join(sorted(codes)) or "none"
        raise PreconditionFailed(
            NOT_GIVEN,
            f"accept_warnings names {', '.join(unknown)}, but there was no such warning (found: {given}): leave it out",
        )
    for notice in notices:
        if notice.severity == "error" and notice.code not in wanted:
            raise PreconditionFailed(
                notice.code, f'{notice.message} (accept_warnings: ["{notice.code}"] goes on in spite of it)'
            )
    return tuple(notice.changed(severity="warning") if notice.severity == "error" else notice for notice in notices)
