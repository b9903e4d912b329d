"""The client of a FedLAS service: models and datasets out, calibrated predictions and typed reports back.

    from fedlas.client import Client

    client = Client()                                            # FEDLAS_URL, FEDLAS_API_KEY, or a profile
    job = client.calibrate("digits.onnx", "digits.npz", budget=2, publish_as="digits")
    print(job.verdict, job.report().metrics.calibrated.nll)
    client.predict("digits", rows).confidences

`AsyncClient` has `predict`, `events` and `wait` for code that awaits. Errors: `fedlas.client.errors`; messages to
webhooks: `fedlas.client.webhooks.verify`. The names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedlas.extras import require

require("client", "httpx", "pydantic")

if TYPE_CHECKING:
    from fedlas.client.asynchronous import AsyncClient
    from fedlas.client.client import Client
    from fedlas.client.errors import ClientError
    from fedlas.client.jobs import Job
    from fedlas.client.predictions import Predictions
    from fedlas.client.reports import Report
    from fedlas.client.transport import RawResponse
    from fedlas.contract.events import JobEvent
    from fedlas.contract.predictions import Prediction
    from fedlas.contract.records import BatchRecord, CalibratorRecord, DatasetRecord, ModelRecord, NameRecord

_RECORDS = ("BatchRecord", "CalibratorRecord", "DatasetRecord", "ModelRecord", "NameRecord")
_MODULES = {
    "AsyncClient": "fedlas.client.asynchronous",
    "Client": "fedlas.client.client",
    "ClientError": "fedlas.client.errors",
    "Job": "fedlas.client.jobs",
    "JobEvent": "fedlas.contract.events",
    "Prediction": "fedlas.contract.predictions",
    "Predictions": "fedlas.client.predictions",
    "RawResponse": "fedlas.client.transport",
    "Report": "fedlas.client.reports",
    **dict.fromkeys(_RECORDS, "fedlas.contract.records"),
}

__all__ = [
    "AsyncClient",
    "BatchRecord",
    "CalibratorRecord",
    "Client",
    "ClientError",
    "DatasetRecord",
    "Job",
    "JobEvent",
    "ModelRecord",
    "NameRecord",
    "Prediction",
    "Predictions",
    "RawResponse",
    "Report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'fedlas.client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
