"""Bodies that weigh more than they look, and models that are ready without an inspection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers import Json
from tests.helpers.api import Api
from tests.helpers.served import scaling
from tests.helpers.staging import stage_bytes

MEBIBYTE = 1024**2
JSON = {"Content-Type": "application/json"}
#: A model of two numbers, as its profile describes it.
PAIR: Json = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2]}],
    "class_names": ["a", "b"],
    "features": {"layer": "x", "dim": 2},
    "task": "multiclass",
}


def listed(piece: bytes, total: int, *, head: bytes = b'{"inputs":[', tail: bytes = b"]}") -> bytes:
    """A list of as many of these as there is room for."""
    return head + b",".join([piece] * (total // (len(piece) + 1))) + tail


def keyed(number: int, *, head: bytes = b'{"inputs":[[1,2]],', tail: bytes = b"}") -> bytes:
    """So many unknown keys."""
    return head + b",".join(b'"k%d":0' % i for i in range(number)) + tail


def ready_model(api: Api, *, profile: Mapping[str, Any] = PAIR, file: bytes | None = None) -> str:
    """The id of a model that is ready, without any inspection."""
    model = api.post("/v1/models", content=b"x")
    with stage_bytes(api.registry.artifacts, file or scaling(1)) as staged, api.registry.write() as unit:
        unit.models.ready(model["id"], profile=dict(profile), served_sha256=staged.keep())
    return str(model["id"])


def resident_bytes() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
