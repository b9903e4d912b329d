"""The models that are served, as the API speaks of them to whatever answers predictions: this process, or others."""

from __future__ import annotations

from typing import Protocol


class ServedModels(Protocol):
    """What a client has changed or has seen counts for its next prediction, once the call has returned."""

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model behind a name or id.

        Raises NotFound, or Conflict while it is not ready (`model_not_ready`) or taken out of service
        (`model_unloaded`), or Unavailable.
        """

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""

    async def renew(self, called: str) -> None:
        """Read one name again before its next use."""

    async def forget(self) -> None:
        """Read every name again before its next use."""

    async def drop(self, called: str) -> None:
        """Close the models of a name or id that is out of service."""

    async def count(self) -> None:
        """Have at hand what was counted until now."""

    def check(self) -> None:
        """Raises Unavailable while some predictions have no process that answers them."""

    def device(self) -> str | None:
        """What predictions run on (a provider of ONNX Runtime); None before that is known."""

    def provider(self, digest: str) -> str | None:
        """What the model of this file runs on, which may be less; None where it is not open."""
