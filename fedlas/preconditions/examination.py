"""The examination of a model and a dataset: all checks in turn, and what of their notices ends a job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from fedlas.contract.profiles import Notice
from fedlas.errors import PreconditionFailed
from fedlas.preconditions.class_rows import class_rows, softmax_twice
from fedlas.preconditions.inputs import inputs
from fedlas.preconditions.label_order import label_order
from fedlas.preconditions.trials import Examined

__all__ = ["Examined", "examine", "require_accepted"]
Check: TypeAlias = Callable[[Examined], list[Notice]]
_LOG = logging.getLogger("fedlas.preconditions")
#: The code of an acceptance without a warning.
NOT_GIVEN = "warning_not_given"
_ORDERS = ("label_order", "labels_from_one")
#: How much more accurate answers are with a remedy of the inputs that makes another order of the classes needless.
_CLEARLY = 0.02
#: In this order; what explains all the rest comes first.
CHECKS: tuple[Check, ...] = (label_order, softmax_twice, inputs, class_rows)


def examine(examined: Examined) -> tuple[Notice, ...]:
    """The notices of all checks, one for each mistake."""
    notices = [notice for check in CHECKS for notice in _checked(check, examined)]
    explained = max((_number(notice, "accuracy_after") for notice in notices), default=0.0)
    # Wrong inputs leave answers that some other order of the classes always fits better, but never as well.
    return tuple(
        notice
        for notice in notices
        if notice.code not in _ORDERS or explained <= _number(notice, "accuracy_as_mapped") + _CLEARLY
    )


def _checked(check: Check, examined: Examined) -> list[Notice]:
    """The notices of one check; one that fails is a defect of ours, and no reason to refuse a job."""
    try:
        return check(examined)
    except Exception:
        _LOG.exception("a check of model and dataset has failed: %s", check.__name__)
        return []


def _number(notice: Notice, name: str) -> float:
    value = notice.evidence.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


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
