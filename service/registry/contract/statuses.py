"""The statuses of records, and where each kind of record ends."""

from __future__ import annotations

from typing import Literal

UploadStatus = Literal["inspecting", "ready", "rejected"]
JobStatus = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
BatchStatus = Literal["queued", "running", "succeeded", "failed"]
CalibratorStatus = Literal["running", "succeeded", "failed"]
DeliveryStatus = Literal["pending", "delivered", "failed", "disabled"]

#: Statuses after which a record never changes again (except by deletion).
FINAL: frozenset[str] = frozenset({"ready", "rejected", "succeeded", "failed", "cancelled"})
