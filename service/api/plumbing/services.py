"""The services of one API process: made once from the settings, and given to every handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from service.api.plumbing.exposition import Exposition
from service.api.plumbing.long_poll import LongPoll
from service.api.plumbing.metrics import RegistryFigures
from service.api.plumbing.probes import Probes
from service.http.access import AccessControl
from service.http.access_log import AccessLog
from service.predict.engine.metrics import ServingMetrics
from service.predict.engine.quarantine import Quarantine
from service.predict.repository import Lookup, ServedModels
from service.predict.served_folder import ServedFolder
from service.queue import PermitSender
from service.registry import tables
from service.registry.errors import Unavailable
from service.registry.registry import Registry, UnitOfWork
from service.registry.settings import ServiceSettings
from service.served.folder import KEYS
from service.served.keys import Keys
from service.served.writer import ServedWriter
from service.tracing import Tracing

#: A version that a job has published answers after this time on other machines, too.
FOLLOWED_EVERY_S = 0.25
#: How often all of the folder is compared with the registry: with 100,000 names that takes 4 s.
REWRITTEN_EVERY_S = 600.0
#: A new version is waited for so long before it is switched to; it may still be opened then.
_OPENED_S = 1.0
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Core:
    """Services that the API and the predictions of one process share."""

    settings: ServiceSettings
    registry: Registry
    served: ServedWriter
    look_up: Lookup
    quarantine: Quarantine
    access: AccessControl
    keys: Keys
    metrics: ServingMetrics
    tracing: Tracing
    access_log: AccessLog

    @classmethod
    def open(cls, settings: ServiceSettings, tracing: Tracing, folder: Path) -> Core:
        """Open the registry, and migrate it; `folder` is the served folder, which no other process writes."""
        registry = Registry.open(settings)
        registry.migrate()
        served, reader = ServedWriter(registry, folder), ServedFolder(folder)
        registry.on_served = served.follow
        return cls(
            settings=settings,
            registry=registry,
            served=served,
            look_up=Lookup(reader, lambda model_id: run_in_threadpool(served.give, model_id)),
            quarantine=reader.quarantine,
            access=AccessControl.of(settings),
            keys=Keys.of_settings(settings.api_keys, settings.metrics_keys, folder / KEYS),
            metrics=ServingMetrics(most_models=settings.metrics_models),
            tracing=tracing,
            access_log=AccessLog(),
        )


@dataclass(frozen=True)
class Services(Core):
    """Everything that lives as long as the process.

    Attributes:
        served_models: those of this process, or of others that answer predictions.
        write_limiter: of the threads that write: one.
    """

    served_models: ServedModels
    notifier: PermitSender
    long_poll: LongPoll
    write_limiter: CapacityLimiter
    probes: Probes
    exposition: Exposition

    @classmethod
    def over(
        cls,
        core: Core,
        served_models: ServedModels,
        *,
        process_ids: Callable[[], Iterable[int]] | None = None,
    ) -> Services:
        """Make the rest; nothing runs before `start`. `process_ids`: of all processes, where there are several."""
        settings, registry, metrics = core.settings, core.registry, core.metrics
        notifier = PermitSender(settings.resolved_broker_url)
        registry.notify = notifier.notify
        probes = Probes()
        return cls(
            **{field.name: getattr(core, field.name) for field in fields(Core)},
            served_models=served_models,
            notifier=notifier,
            long_poll=LongPoll(registry),
            write_limiter=CapacityLimiter(1),
            probes=probes,
            exposition=Exposition(
                metrics,
                figures=RegistryFigures(registry, probes),
                count=served_models.count,
                processes=served_models.processes,
                process_ids=process_ids,
                most_models=settings.metrics_models,
            ),
        )

    def close(self) -> None:
        """Stop everything; called once, when no request is answered any more."""
        self.access_log.stop()
        self.tracing.close()
        self.long_poll.close()
        self.notifier.close()
        self.registry.close()

    async def write_keys(self) -> None:
        """Let every process know which keys there are now; raises Unavailable."""

        def rows() -> Sequence[tables.ApiKey]:
            with self.registry.read() as unit:
                return unit.api_keys.all()

        try:
            await run_in_threadpool(self.keys.write, rows)
        except OSError as error:
            message = f"the file of keys cannot be written ({error.strerror}); until then issued keys may be refused"
            raise Unavailable("storage_unavailable", message) from error

    async def follow_keys(self) -> None:
        """Write them, where that is possible, since other machines issue and revoke keys, too."""
        with suppress(Unavailable):  # the next time
            await self.write_keys()

    async def follow_served(self) -> None:
        """Let the served folder say what other processes have published, which is opened before.

        Where it cannot be written, or nothing read, the log says so, and the next time may do it.
        """
        with suppress(Unavailable):
            coming = await run_in_threadpool(self.served.coming)
            with suppress(TimeoutError):
                async with asyncio.timeout(_OPENED_S):
                    await asyncio.gather(*map(self.served_models.prepare, coming or ()))
            if coming is not None:
                await run_in_threadpool(self.served.follow)

    async def read(self, find: Callable[[UnitOfWork], T]) -> T:
        """Run a function in a thread, over a transaction that is never committed."""

        def in_transaction() -> T:
            with self.registry.read() as unit:
                return find(unit)

        return await run_in_threadpool(in_transaction)

    async def write(self, change: Callable[[UnitOfWork], T]) -> T:
        """Run a function in a thread, in a transaction after those that came before it.

        The database lets one write at a time anyway. Threads that queue there wait in no order (with 16 clients on
        SQLite the slowest took 5 s, here 0.1 s) and are missing for reading.
        """

        def in_transaction() -> T:
            with self.registry.write() as unit:
                return change(unit)

        return await to_thread.run_sync(in_transaction, limiter=self.write_limiter)


async def _services(connection: HTTPConnection) -> Services:  # a plain function would be sent to a thread
    services: Services = connection.app.state.services
    return services


async def in_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Run in a thread, and wait for its end also when the request is cancelled: the work uses a file that is open."""
    running = asyncio.ensure_future(run_in_threadpool(function, *args, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


#: The services as the parameter of a handler.
ServicesDep = Annotated[Services, Depends(_services)]
