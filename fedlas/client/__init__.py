"""The client of a FedLAS service: models and datasets out, calibrated predictions and typed reports back.

    from fedlas.client import Client

    client = Client()                                            # FEDLAS_URL, FEDLAS_API_KEY, or a profile
    job = client.calibrate("digits.onnx", "digits.npz", budget="2m", publish_as="digits")
    print(job.verdict, job.report().metrics.calibrated.nll)
    client.predict("digits", rows).confidences

`AsyncClient` has `predict`, `events` and `wait` for code that awaits. Errors are drawn as a tree in
`fedlas.client.errors`; messages to webhooks: `fedlas.client.webhooks.verify`. The names are loaded on first use.

Three numbers of seconds mean one thing wherever they stand: `timeout` is for one try of a request, `wait_timeout` for
waiting for work that goes on when it is up, and an answer that takes longer than `deadline` is of no use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedlas.extras import require

require("client", "httpx", "pydantic")

if TYPE_CHECKING:
    from fedlas.client.asynchronous import AsyncClient
    from fedlas.client.client import Client
    from fedlas.client.errors import (
        APIConnectionError,
        APIError,
        APIStatusError,
        AuthenticationError,
        ClientError,
        ConfigurationError,
        ConflictError,
        DigestMismatch,
        FileError,
        InvalidInput,
        InvalidRequestError,
        JobCancelled,
        JobFailed,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        Rejected,
        ServerError,
        ServerMismatch,
        SignatureError,
        WaitTimeout,
        WorkFailed,
    )
    from fedlas.client.jobs import Job
    from fedlas.client.predictions import Predictions
    from fedlas.client.reports import Report
    from fedlas.client.transport import RawResponse
    from fedlas.contract.events import JobEvent
    from fedlas.contract.predictions import Prediction
    from fedlas.contract.problems import FieldError
    from fedlas.contract.records import BatchRecord, CalibratorRecord, DatasetRecord, ModelRecord, NameRecord
    from fedlas.errors import ConversionError, FedLASError

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "AsyncClient",
    "AuthenticationError",
    "BatchRecord",
    "CalibratorRecord",
    "Client",
    "ClientError",
    "ConfigurationError",
    "ConflictError",
    "ConversionError",
    "DatasetRecord",
    "DigestMismatch",
    "FedLASError",
    "FieldError",
    "FileError",
    "InvalidInput",
    "InvalidRequestError",
    "Job",
    "JobCancelled",
    "JobEvent",
    "JobFailed",
    "ModelRecord",
    "NameRecord",
    "NotFoundError",
    "PermissionDeniedError",
    "Prediction",
    "Predictions",
    "RateLimitError",
    "RawResponse",
    "Rejected",
    "Report",
    "ServerError",
    "ServerMismatch",
    "SignatureError",
    "WaitTimeout",
    "WorkFailed",
]
#: Where the names are that stand in none of `fedlas.client.errors` and `fedlas.contract.records`.
_MODULES = {
    "ConversionError": "fedlas.errors",
    "FedLASError": "fedlas.errors",
    "AsyncClient": "fedlas.client.asynchronous",
    "Client": "fedlas.client.client",
    "FieldError": "fedlas.contract.problems",
    "Job": "fedlas.client.jobs",
    "JobEvent": "fedlas.contract.events",
    "Prediction": "fedlas.contract.predictions",
    "Predictions": "fedlas.client.predictions",
    "RawResponse": "fedlas.client.transport",
    "Report": "fedlas.client.reports",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = _MODULES.get(name) or ("fedlas.contract.records" if name.endswith("Record") else "fedlas.client.errors")
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'fedlas.client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
