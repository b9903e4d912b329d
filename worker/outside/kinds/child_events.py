"""What a child tells while it works, taken only as far as it is what it seems: others will read it in records.

A child that was taken over may say anything; a word that no JSON answer can carry would break every list it stands in.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, ValidationError

from service.registry.documents import Progress

Json = dict[str, Any]

_MOST_BYTES = 16 * 1024


class _Sound(Progress):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def sound_progress(told: object) -> Json | None:
    """The progress, if it is one; else None.

    >>> sound_progress({"fraction": 0.5, "candidate": "fedlas"})["fraction"]
    0.5
    >>> sound_progress({"fraction": float("nan")}) is sound_progress({"epoch": "x"}) is sound_progress("abc") is None
    True
    """
    if not _is_sound(told):
        return None
    try:
        return _Sound.model_validate(told).model_dump()
    except ValidationError:
        return None


def sound_candidate(told: object) -> Json | None:
    """The data of an event that tells how a candidate ended; else None."""
    if not (isinstance(told, dict) and told.get("type") == "candidate" and isinstance(told.get("data"), dict)):
        return None
    return told["data"] if _is_sound(told["data"]) else None


def _is_sound(told: object) -> bool:
    """Whether this is small, and text that can be sent: half a surrogate pair, for example, cannot."""
    try:
        return len(json.dumps(told, ensure_ascii=False, allow_nan=False).encode()) <= _MOST_BYTES
    except (ValueError, TypeError, RecursionError):
        return False
