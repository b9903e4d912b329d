"""Errors of the registry's family as documents."""

from __future__ import annotations

from service.ipc.documents import Refusal
from service.registry import errors

_KINDS = {
    kind.__name__: kind
    for kind in (
        *(errors.NotFound, errors.InvalidRequest, errors.Conflict, errors.TooLarge, errors.Unavailable),
        errors.OutOfService,
    )
}


def refusal_of(number: int, error: errors.RegistryError) -> Refusal:
    """The document; of an error that no question can have, `Unavailable`."""
    name = type(error).__name__ if type(error).__name__ in _KINDS else "Unavailable"
    passing = isinstance(error, errors.Conflict) and error.passing
    return Refusal(
        number=number, error=name, code=error.code, message=error.message, field=error.field, passing=passing
    )


def error_of(refusal: Refusal) -> errors.RegistryError:
    """The error."""
    if refusal.error == errors.Conflict.__name__:
        return errors.Conflict(refusal.code, refusal.message, field=refusal.field, passing=refusal.passing)
    kind = _KINDS.get(refusal.error, errors.Unavailable)
    return kind(refusal.code, refusal.message, field=refusal.field)
