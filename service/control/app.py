"""The ASGI application of control: everything but predictions; those that its pages make go to a serving process."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from service.api import problems
from service.control.peers import ServingPeers
from service.control.predictions import forward
from service.registry.errors import Unavailable


class ControlApp:
    """FastAPI, and behind it the serving processes."""

    def __init__(self, fastapi: FastAPI, peers: ServingPeers) -> None:
        self.fastapi = fastapi
        self._peers = peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A prediction comes here from a page, or over a connection that no serving process takes."""
        if scope["type"] != "http" or not self._peers.is_elsewhere(scope["path"].encode(), b""):
            await self.fastapi(scope, receive, send)
            return
        try:
            await forward(self._peers, scope, receive, send)
        except Unavailable as error:
            await problems.problem_of(scope["path"], error)(scope, receive, send)
