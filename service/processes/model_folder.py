"""A predict server alone, `fedlas serve --model-dir`: calibrated files of a folder, and nothing else.

No registry, database, worker, broker or PyTorch takes part, and this one process holds keys and runs models. Its files
are the operator's: no sandbox has inspected them here and no operator list is held against them, so that a folder is
to be written by nobody else. It is read once, when the process starts.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from importlib.metadata import version as version_of
from pathlib import Path

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedlas.contract.predictions import ServedModel
from service.api.plumbing.exposition import Exposition
from service.http import problems
from service.http.access import AccessControl, AccessMiddleware
from service.http.access_log import AccessLog, AccessLogMiddleware, RequestIdMiddleware
from service.predict.app import ROUTES, ServingApp
from service.predict.call import ServingServices, scheduler_of
from service.predict.engine.calibrated_file import BadFile, file_profile
from service.predict.engine.metrics import ServingMetrics, Totals
from service.predict.engine.profile import ServingProfile
from service.predict.engine.session import providers, release_arena
from service.predict.formats.oip_responses import (
    EXTENSIONS,
    model_config,
    model_metadata,
    model_statistics,
    server_metadata,
)
from service.predict.repository import Lookup
from service.predict.served_folder import ResolvedModel
from service.process_memory import MemoryRelease, limit
from service.processes.supervision import bound
from service.registry.errors import Conflict, NotFound, RegistryError, Unavailable
from service.registry.settings import ServiceSettings
from service.served.folder import VERSION, version_number
from service.served.keys import Keys
from service.server import STUCK_EXIT_CODE, Server, configured, prepare_process, warn_without_keys
from service.tracing import Tracing
from service.transport.connections import Connections
from service.transport.protocol import Protocol

_LOG = logging.getLogger("fedlas.api")
_FILE = "model.onnx"
_SUFFIX = ".onnx"
_MODEL = "/v2/models/{model}"
_EXTENSIONS = [name for name in EXTENSIONS if not name.startswith("model_repository")]
#: In the root of every volume with ext4, and readable by root alone.
_PASSED_OVER = "lost+found"


class FolderMistakes(Exception):
    """Everything in the way of serving a folder: each argument is a sentence."""


class Layout:
    """The files of a folder by the name and version of their models.

    Args:
        name: of the one model whose own folder this is.

    Attributes:
        mistakes: what is wrong with it, a sentence each.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.files: dict[str, dict[int, Path]] = {}
        self.mistakes: list[str] = []
        if not folder.is_dir():
            raise FolderMistakes(f"there is no folder {folder}")
        try:
            entries = [] if name is not None else _entries(folder)
        except OSError as error:
            raise FolderMistakes(f"{folder} cannot be read: {error.strerror}") from error
        if name is not None and (versions := self._versions(folder)):
            self.files[name] = versions
        for entry in entries:
            called = entry.name.removesuffix(_SUFFIX)
            if versions := self._versions(entry) if entry.is_dir() else _alone(entry):
                if called in self.files:
                    self.mistakes.append(f"two models are called {called}: {folder / called}{_SUFFIX} and a folder")
                self.files[called] = versions
        if not self.files and not self.mistakes:
            forms = "NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx"
            needed = forms if name is None else f"one file *{_SUFFIX} or VERSION/{_FILE}, since a name was given"
            self.mistakes.append(f"{folder} holds no model; expected {needed}")

    def _versions(self, folder: Path) -> dict[int, Path]:
        """The versions of one model; a folder of something else has none."""
        try:
            numbered = [one for one in _entries(folder) if one.is_dir() and VERSION.fullmatch(one.name)]
            files = {int(one.name): self._file(one) for one in sorted(numbered, key=lambda one: int(one.name))}
            alone = self._file(folder)
        except OSError as error:
            self.mistakes.append(f"{folder} cannot be read: {error.strerror}")
            return {}
        if alone is not None and files:
            self.mistakes.append(f"{folder} holds {alone.name} beside versions; expected one or the other")
        self.mistakes += [f"{folder / str(one)} holds no {_SUFFIX} file" for one, file in files.items() if file is None]
        return {1: alone} if alone is not None else {one: file for one, file in files.items() if file is not None}

    def _file(self, folder: Path) -> Path | None:
        found = [entry for entry in _entries(folder) if _alone(entry)]
        if len(found) > 1 and folder / _FILE not in found:
            names = ", ".join(entry.name for entry in found)
            self.mistakes.append(f"{folder} holds {names}; expected one file, or one that is called {_FILE}")
        return folder / _FILE if folder / _FILE in found else next(iter(found), None)


def _alone(entry: Path) -> dict[int, Path]:
    """A file of a model as its only version."""
    return {1: entry} if entry.suffix == _SUFFIX and entry.is_file() else {}


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, without what Kubernetes and editors hide there."""
    return [
        entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".") and entry.name != _PASSED_OVER
    ]


class FolderModels:
    """The models of a folder, `by_name` and version."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[int, ResolvedModel]] = {}
        self._files: dict[str, tuple[Path, int]] = {}

    @classmethod
    def read(cls, folder: Path, *, name: str | None = None) -> FolderModels:
        """Open every file of a folder; raises FolderMistakes with all that is wrong."""
        models, layout = cls(), Layout(folder, name)
        for called, versions in layout.files.items():
            for number, path in versions.items():
                try:
                    models._add(called, number, path)
                except (BadFile, OSError) as error:
                    layout.mistakes.append(f"{path} cannot be served: {error}")
        if layout.mistakes:
            raise FolderMistakes(*layout.mistakes)
        return models

    def _add(self, called: str, number: int, path: Path) -> None:
        written_at, profile = path.stat().st_mtime_ns, file_profile(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        model_id = f"sha256:{digest}"
        served = ServedModel(id=model_id, name=called, version=number, calibrated=True).model_dump_json().encode()
        resolved = ResolvedModel(called, str(number), model_id, digest, served, ServingProfile.of(profile))
        self.by_name.setdefault(called, {})[number] = resolved
        self._files[digest] = path, written_at

    def look_up(self, called: str, version: str | None = None) -> ResolvedModel:
        """The model of a name, of the highest version unless one is given; raises NotFound."""
        versions = self.of(called)
        number = max(versions) if version is None else version_number(version)
        if number not in versions:
            known = f"{called!r} has the versions {', '.join(map(str, versions))}"
            raise NotFound("unknown_version", f"{known}, not {number}")
        return versions[number]

    def of(self, called: str) -> Mapping[int, ResolvedModel]:
        """The versions of a name; raises NotFound."""
        if called not in self.by_name:
            raise NotFound("unknown_model", f"there is no model called {called!r}")
        return self.by_name[called]

    def check(self, digest: str) -> None:
        """All files may run."""

    def has_word_of(self, model_id: str) -> bool:
        """All files are here from the start."""
        return True

    async def fetch(self, model_id: str) -> None:
        """A file that is not here any more is nowhere."""

    @contextmanager
    def file(self, digest: str) -> Iterator[Path]:
        """The path of a file; raises NotFound where it is not the one that was read."""
        path, written_at = self._files[digest]
        if not path.is_file() or path.stat().st_mtime_ns != written_at:
            raise NotFound("artifact_missing", f"{path} was changed or removed; start the server again")
        yield path


class FolderRoutes:
    """The answers of the routes.

    Args:
        exposition: of the metrics of this process.
    """

    def __init__(self, models: FolderModels, services: ServingServices, exposition: Exposition) -> None:
        self._models = models
        self._services = services
        self._exposition = exposition

    def routes(self) -> list[Route]:
        of_model = {"": self.metadata, "/config": self.config, "/ready": self.model_ready, "/stats": self.statistics}
        return [
            Route("/healthz", _always({"status": "ok"})),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/v2", _always(server_metadata(version_of("fedlas"), _EXTENSIONS))),
            Route("/v2/health/live", _always({"live": True})),
            Route("/v2/health/ready", _always({"ready": True})),
            Route("/v2/models", _always({"models": list(self._models.by_name)})),
            *(
                Route(f"{prefix}{path}", answer)
                for prefix in (_MODEL, f"{_MODEL}/versions/{{version}}")
                for path, answer in of_model.items()
            ),
        ]

    async def readyz(self, request: Request) -> Response:
        device = ", ".join(self._services.model_repository.processes())
        return JSONResponse({"status": "ready", "checks": {"serving": "ok"}, "workers": None, "inference": device})

    async def metrics(self, request: Request) -> Response:
        accept, encoding = (request.headers.get(name, "") for name in ("accept", "accept-encoding"))
        return await self._exposition.answer(accept, encoding)

    async def metadata(self, request: Request) -> Response:
        target = self._models.look_up(*_asked(request))
        return JSONResponse(model_metadata(target.profile, target.called, self._versions(target.called)))

    async def config(self, request: Request) -> Response:
        target = self._models.look_up(*_asked(request))
        most, provider = (
            self._services.settings.max_predict_rows,
            self._services.model_repository.provider(target.digest),
        )
        return JSONResponse(model_config(target.profile, target.called, max_rows=most, provider=provider))

    async def model_ready(self, request: Request) -> Response:
        called, version = _asked(request)
        try:
            await self._services.model_repository.ready(called, version)
        except (Conflict, Unavailable):
            return JSONResponse({"name": called, "ready": False}, 503)
        return JSONResponse({"name": called, "ready": True})

    async def statistics(self, request: Request) -> Response:
        called, version = _asked(request)
        target, none = self._models.look_up(called, version), Totals.of(())
        counted = self._services.metrics.all_totals()
        numbers = self._versions(called) if version is None else [target.version]
        return JSONResponse(
            {"model_stats": [model_statistics(called, one, counted.get((called, one), none)) for one in numbers]}
        )

    def _versions(self, called: str) -> list[str]:
        return list(map(str, self._models.of(called)))


def _always(content: object) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return JSONResponse(content)

    return answer


def _asked(request: Request) -> tuple[str, str | None]:
    """Name and version in the path."""
    return request.path_params["model"], request.path_params.get("version")


def application(models: FolderModels, services: ServingServices, keys: Keys, exposition: Exposition) -> Starlette:
    """The application of these routes; it opens the models before it has started."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        services.start()
        services.access_log.start()
        for name in models.by_name:  # the rest is opened by the first request
            if services.scheduler.models.bytes < services.settings.session_cache_bytes:
                await services.model_repository.ready(name)
        yield
        for close in (services.scheduler.shut_down, services.tracing.close, services.access_log.stop):
            await to_thread.run_sync(close)

    app = Starlette(
        routes=FolderRoutes(models, services, exposition).routes(),
        middleware=[
            Middleware(AccessLogMiddleware, log=services.access_log),
            Middleware(RequestIdMiddleware),
            Middleware(AccessMiddleware, access=services.access, keys=keys),
        ],
        exception_handlers={RegistryError: _problem, HTTPException: _problem},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # it would lead to wherever `Host` says
    return app


async def _problem(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, RegistryError):
        return problems.problem_of(path, error)
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    return problems.problem(error.status_code, code, str(error.detail), path=path, headers=error.headers)


def serve_folder(settings: ServiceSettings, folder: Path, *, name: str | None = None) -> int:
    """Serve the files of a folder until SIGINT or SIGTERM; returns the exit code.

    Args:
        name: of the one model that the folder then holds.

    Raises:
        FolderMistakes: something cannot be served, or settings ask for what this form of the service has not.
    """
    if settings.wall == "required" or (settings.api_processes or 1) > 1:
        message = "--model-dir serves in one process: leave out FEDLAS_WALL=required and FEDLAS_API_PROCESSES"
        raise FolderMistakes(f"{message}, and start more replicas")
    settings = settings.model_copy(update={"api_processes": 1})
    models = FolderModels.read(folder, name=name)
    prepare_process(settings)
    warn_without_keys(settings)
    _LOG.info("serving %s from %s", ", ".join(models.by_name), folder.absolute())
    if settings.api_memory_bytes is not None or "CUDAExecutionProvider" not in providers():
        limit(settings.resolved_api_memory_bytes)
    config = configured(
        _application(models, settings),
        settings,
        lifespan="on",
        protocol=partial(Protocol, connections=Connections.of(settings)),
    )
    server = Server(
        config,
        background=[MemoryRelease(release_arena).run],
        answers="predictions at /v1/models/NAME/predict and /v2/models/NAME/infer",
    )
    return server.run_until_stopped([bound(settings)])


def _application(models: FolderModels, settings: ServiceSettings) -> ServingApp:
    tracing, metrics = Tracing.from_environment(), ServingMetrics(most_models=settings.metrics_models)
    keys = Keys.of_settings(settings.api_keys, settings.metrics_keys)
    services = ServingServices.open(
        settings,
        scheduler_of(settings, models.file, tracing, on_stuck=_end),
        access=AccessControl.of(settings),
        keys=keys,
        look_up=Lookup(models, models.fetch),
        metrics=metrics,
        tracing=tracing,
        access_log=AccessLog(),
    )
    processes = services.model_repository.processes
    exposition = Exposition(metrics, processes=processes, most_models=settings.metrics_models)
    return ServingApp(application(models, services, keys, exposition), services, ROUTES)


def _end(digest: str) -> None:
    """End the process, whose run of this file does not end; whoever started it starts it again."""
    _LOG.critical("a run of the file with SHA-256 %s does not end: the process ends", digest)
    os._exit(STUCK_EXIT_CODE)
