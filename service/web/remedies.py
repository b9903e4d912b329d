"""Remedies: what a person can do about an error, where the API's word for it names what only its clients see."""

from __future__ import annotations

from service.api.error_codes import ERROR_CODES

_LATER = "Try again in a moment; nothing was changed."
_OPERATOR = "Tell the operator; the page of operations names what cannot be reached."
_WAIT = "Wait until it has ended, then do this again."
_LIST = "It may have been deleted by somebody else. The list has all there are."

_ON_PAGES = {
    "unauthorized": "Enter a key of this service.",
    "not_found": "The sections above lead to all there is.",
    "method_not_allowed": "Open the page that this address belongs to.",
    **dict.fromkeys(
        ("unknown_model", "unknown_dataset", "unknown_job", "unknown_calibrator", "unknown_prediction"), _LIST
    ),
    "unknown_name": "The list of names has all that are published.",
    "unknown_version": "The page of the name lists its versions.",
    "unknown_results_part": "The manifest of the results lists their parts.",
    "unknown_delivery": "The page of the job lists its messages.",
    "unknown_upload": "Choose the file again; the upload begins anew.",
    "invalid_cursor": "Open the list from its beginning.",
    "offset_mismatch": "Choose the file again; the upload goes on where it stands.",
    "upload_stalled": "Choose the file again; what came is kept.",
    "idempotency_key_in_flight": _LATER,
    "internal_error": "Tell the operator, with the id of the request that stands below.",
    "model_not_ready": "The model's page says what inspection is at, or why it was rejected.",
    "provenance_needed": "Say on the page of the order which rows the model has seen.",
    "unlabelled_dataset": "Choose a dataset with labels.",
    "wrong_inputs": "The model's page lists its inputs.",
    "unknown_output": "The model's page lists its outputs.",
    "model_unloaded": "The operator can put it back into service.",
    **dict.fromkeys(("not_finished", "no_report", "no_results", "no_calibrator"), _WAIT),
    **dict.fromkeys(("model_cannot_be_opened", "storage_unavailable", "artifact_damaged"), _OPERATOR),
    **dict.fromkeys(
        (
            *("too_many_connections", "overloaded", "upload_busy", "delivery_running"),
            *("model_suspended", "database_unavailable", "unavailable"),
        ),
        _LATER,
    ),
}
#: Parts of the API's answer, which a page shows anyway.
_SHOWN = ("`detail`", "`errors`")


def remedy_of(code: str) -> str | None:
    """What to do, as one sentence; None where what was found says it already.

    >>> remedy_of("too_few_test_rows"), remedy_of("wrong_shape")
    (None, None)
    >>> remedy_of("database_unavailable")
    'Try again in a moment; nothing was changed.'
    """
    if code in _ON_PAGES:
        return _ON_PAGES[code]
    known = ERROR_CODES.get(code)
    return None if known is None or any(part in known.remedy for part in _SHOWN) else known.remedy
