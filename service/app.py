"""The composition root of an API that answers predictions itself: settings in, an ASGI application out."""

from __future__ import annotations

from collections.abc import Callable

from service.api.plumbing.services import Core, Services, quarantine
from service.rest_api import App, rest_api
from service.serving.app import ROUTES, ServingApp
from service.serving.call import ServingServices
from service.settings import ServiceSettings
from service.shared_counts import SharedCounts
from service.tracing import Tracing


def create_app(settings: ServiceSettings, *, on_stuck: Callable[[str], None] | None = None) -> App:
    """Build the application; the registry is opened and migrated here, and closed when the application stops.

    `on_stuck` is called with the digest of a served copy whose run does not end when its time is up.
    """
    core = Core.open(settings, Tracing.from_environment())
    serving = ServingServices.open(
        settings,
        access=core.access,
        admission=core.keys,
        look_up=core.look_up,
        files=core.registry.artifacts,
        metrics=core.metrics,
        tracing=core.tracing,
        access_log=core.access_log,
        quarantine=quarantine(settings),
        on_stuck=on_stuck,
    )
    shared_counts = None
    if settings.api_processes > 1:
        shared_counts = SharedCounts(settings.data_dir.absolute() / "run" / "metrics", core.metrics)
    services = Services.over(
        core,
        serving.model_repository,
        shared_counts=shared_counts,
        process_ids=None if shared_counts is None else shared_counts.process_ids,
    )
    fastapi = rest_api(services, starting=serving.start, stopping=serving.close)
    return App.fronted(ServingApp(fastapi, serving, ROUTES), fastapi, services)
