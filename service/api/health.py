"""Health: what the service rests on, each checked by itself and in its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.api.probes import Probes
from service.api.services import Services


@dataclass(frozen=True)
class Outcome:
    """The answer of one dependency, after so many seconds; `error` is the kind of the error, None where it is well."""

    name: str
    error: str | None
    seconds: float


async def outcomes(services: Services) -> list[Outcome]:
    """Of database, broker, storage and serving, in this order."""
    checks = {
        "database": services.registry.check,
        "broker": services.notifier.check,
        "storage": services.registry.artifacts.check,
        "serving": services.served_models.check,
    }
    return await asyncio.gather(*(_outcome(services.probes, name, check) for name, check in checks.items()))


async def _outcome(probes: Probes, name: str, check: Callable[[], None]) -> Outcome:
    began, failed = time.perf_counter(), None
    try:
        await probes.run(name, check)
    except Exception as error:  # any error is the answer
        failed = type(error).__name__
    return Outcome(name, failed, time.perf_counter() - began)
