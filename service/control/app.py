"""The composition root of control: everything but predictions; those that its pages make go to a serving process."""

from __future__ import annotations

import os

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from service.api.plumbing import problems
from service.api.plumbing.services import Core, Services
from service.control.collector import Collector
from service.control.peer_models import PeerModels
from service.control.peers import ServingPeers
from service.control.predictions import forward
from service.control.span_relay import SpanRelay
from service.registry.errors import Unavailable
from service.rest_api import App, rest_api
from service.settings import ServiceSettings
from service.tracing import Tracing, asked_for


def create_control(settings: ServiceSettings, peers: ServingPeers, models: PeerModels) -> App:
    """Build the application of a control process, whose predictions other processes answer."""
    core = Core.open(settings, Tracing())
    relay = _relay()
    peers.connect(core.look_up, core.keys, core.registry.artifacts, core.metrics, relay.pass_on)
    services = Services.over(core, models, process_ids=peers.process_ids)
    fastapi = rest_api(services, stopping=relay.close)
    return App.fronted(ControlApp(fastapi, peers), fastapi, services)


def _relay() -> SpanRelay:
    """To the collector, if the environment names one."""
    return SpanRelay(Collector(os.environ).send if asked_for(os.environ) else _nowhere)


def _nowhere(request: bytes) -> None:
    """Traces are off."""


class ControlApp:
    """FastAPI, and behind it the serving processes."""

    def __init__(self, fastapi: FastAPI, peers: ServingPeers) -> None:
        self.fastapi = fastapi
        self._peers = peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A prediction comes here from a page, or over a connection that no serving process takes."""
        if scope["type"] != "http" or not self._peers.is_elsewhere(scope["raw_path"]):
            await self.fastapi(scope, receive, send)
            return
        if scope["method"] != "POST":
            await problems.only_post(scope["path"], scope["method"])(scope, receive, send)
            return
        try:
            await forward(self._peers, scope, receive, send)
        except Unavailable as error:
            await problems.problem_of(scope["path"], error)(scope, receive, send)
