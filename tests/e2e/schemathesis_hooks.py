"""Hooks of schemathesis: nine of ten whole jobs that fit the document are left out."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext

_WHOLE_JOBS = count()  # each is inspected twice, for 0.8 s, and no field changes how


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:
    """True for what is sent."""
    whole = case.operation.label == "POST /v1/jobs" and case.media_type == "multipart/form-data"
    fits = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    return not (whole and fits) or next(_WHOLE_JOBS) % 10 == 0
