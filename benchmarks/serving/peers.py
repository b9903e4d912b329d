"""The other servers: how each is started, and with which settings it may try to be fast; it measures nothing.

What was tried, requests per second on the two models of `models.py` (one row each, 16 connections, 2 shared cores in a
quiet hour), is written beside each setting. `--only peers` measures all of them again; the two fastest of each peer go
on to the other figures, and the better one there stands for the peer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data.common import Array
from benchmarks.serving import environments, payloads
from benchmarks.serving.models import ServedModel
from benchmarks.serving.payloads import Request
from benchmarks.serving.processes import Running, running
from tests.helpers.processes import free_port

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Setting:
    """One way to run one server; its name says all."""

    server: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.server} ({self.name})" if self.name else self.server


def _litserve(name: str, size: int, timeout: float, *, fast_queue: bool) -> Setting:
    options = {"MAX_BATCH_SIZE": str(size), "BATCH_TIMEOUT": str(timeout), "FAST_QUEUE": str(int(fast_queue))}
    return Setting("litserve", name, options)


def _mlserver(name: str, *, workers: int = 0, size: int = 0, seconds: float = 0.0, gzip: bool = True) -> Setting:
    options = {"workers": str(workers), "size": str(size), "seconds": str(seconds), "gzip": str(int(gzip))}
    return Setting("mlserver", name, options)


def _mosec(name: str, *, size: int = 1, wait_ms: int = 0, workers: int = 1) -> Setting:
    return Setting("mosec", name, {"MAX_BATCH_SIZE": str(size), "MAX_WAIT_MS": str(wait_ms), "WORKERS": str(workers)})


_LITSERVE_CALM = _litserve("no batches, fast_queue", 1, 0.0, fast_queue=True)
_MLSERVER_CALM = _mlserver("no batches")
_BENTOML_CALM = Setting("bentoml", "no batches", {"service": "Plain"})
_MOSEC_CALM = _mosec("no batches")
#: Requests/s on digits and on MNIST; `fast_queue` is ZeroMQ instead of a queue of Python's multiprocessing.
CANDIDATES: Mapping[str, tuple[Setting, ...]] = {
    "litserve": (
        _litserve("batches of 8, 5 ms, fast_queue", 8, 0.005, fast_queue=True),  # 1,390 and 910
        _litserve("batches of 16, 1 ms", 16, 0.001, fast_queue=False),  # 1,290 and 890
        _litserve("batches of 16, 10 ms", 16, 0.01, fast_queue=False),  # 1,260 and 1,010
        _litserve("batches of 16, 1 ms, fast_queue", 16, 0.001, fast_queue=True),  # 1,230 and 940
        _litserve("no batches", 1, 0.0, fast_queue=False),  # 1,180 and 920
        _LITSERVE_CALM,  # 1,270 and 910
    ),
    "mlserver": (
        _MLSERVER_CALM,  # 2,780 and 2,440
        _mlserver("no batches, no gzip", gzip=False),
        # One inference worker is its default: rows go to another process and back.
        _mlserver("no batches, 1 worker", workers=1),  # 1,300 and 1,250
        _mlserver("batches of 16, 1 ms", size=16, seconds=0.001),  # 2,690 and 2,000
        _mlserver("batches of 16, 5 ms", size=16, seconds=0.005),  # 2,640 and 1,840
        _mlserver("batches of 8, 1 ms", size=8, seconds=0.001),
    ),
    "bentoml": (
        Setting("bentoml", "adaptive batches", {"service": "Batched"}),  # 1,000 and 940
        # `max_latency_ms` stays at 60,000: with 20 and with 200 it answered some requests with 503.
        Setting("bentoml", "adaptive batches of 16", {"service": "Batched", "size": "16"}),
        _BENTOML_CALM,  # 1,030 and 400
        Setting("bentoml", "no batches, access log", {"service": "Plain", "access_log": "1"}),  # 980 and 450
    ),
    "mosec": (
        _mosec("batches of 16, 1 ms", size=16, wait_ms=1),  # 15,630 and 3,900
        _mosec("no batches, 2 workers", workers=2),  # 9,380 and 5,430
        _mosec("batches of 8, 1 ms", size=8, wait_ms=1),  # 14,400 and 4,820
        _mosec("batches of 16, 10 ms", size=16, wait_ms=10),  # 13,750 and 4,470
        _MOSEC_CALM,  # 6,770 and 3,210
    ),
}
#: Settings that never let a request wait for others.
CALM = (_LITSERVE_CALM, _MLSERVER_CALM, _BENTOML_CALM, _MOSEC_CALM)


@dataclass(frozen=True)
class Peer:
    """A running server and the single-row request that it understands."""

    running: Running
    setting: Setting
    path: str
    read: payloads.Reader

    def request(self, rows: Array) -> Request:
        """POST of these rows (N, D) as JSON."""
        if self.setting.server == "mlserver":
            return payloads.oip_json(self.path, rows)
        return payloads.rows_json(self.path, rows, read=self.read)


@contextmanager
def serving(setting: Setting, model: ServedModel) -> Iterator[Peer]:
    """Start it with this model, and end it after the block."""
    with tempfile.TemporaryDirectory(prefix=f"{setting.server}-") as name:
        yield from _START[setting.server](setting, model, Path(name))


def _start_litserve(setting: Setting, model: ServedModel, folder: Path) -> Iterator[Peer]:
    port = free_port()
    command = [str(environments.python("litserve")), str(APPS / "litserve_app.py")]
    given = {**setting.options, "SERVED_MODEL": str(model.path), "PORT": str(port)}
    with running(str(setting), command, port=port, ready="/health", environment=given, folder=folder) as found:
        yield Peer(found, setting, "/predict", payloads.read_probabilities)


def _start_mlserver(setting: Setting, model: ServedModel, folder: Path) -> Iterator[Peer]:
    port = free_port()
    options = setting.options
    settings = {
        "debug": False,  # else it writes a line for every request
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": int(options["workers"]),
        "gzip_enabled": options["gzip"] == "1",
    }
    described = {
        "name": model.name,
        "implementation": "mlserver_runtime.Classifier",
        "parameters": {"uri": str(model.path)},
        "max_batch_size": int(options["size"]),
        "max_batch_time": float(options["seconds"]),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(described))
    command = [str(environments.python("mlserver").with_name("mlserver")), "start", str(folder)]
    ready, given = f"/v2/models/{model.name}/ready", {"PYTHONPATH": str(APPS)}
    with running(str(setting), command, port=port, ready=ready, environment=given, folder=folder) as found:
        yield Peer(found, setting, f"/v2/models/{model.name}/infer", payloads.read_nothing)


def _start_bentoml(setting: Setting, model: ServedModel, folder: Path) -> Iterator[Peer]:
    port = free_port()
    options = setting.options
    given = {
        "SERVED_MODEL": str(model.path),
        "ROW_SIZE": str(model.rows.shape[1]),
        "ACCESS_LOG": options.get("access_log", "0"),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    given |= {"MAX_BATCH_SIZE": options["size"]} if "size" in options else {}
    command = [str(environments.python("bentoml").with_name("bentoml")), "serve"]
    command += [f"bentoml_service:{options['service']}", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--working-dir", str(APPS)]
    with running(str(setting), command, port=port, ready="/readyz", environment=given, folder=folder) as found:
        yield Peer(found, setting, "/predict", payloads.read_array)


def _start_mosec(setting: Setting, model: ServedModel, folder: Path) -> Iterator[Peer]:
    port = free_port()
    given = {**setting.options, "SERVED_MODEL": str(model.path)}
    command = [str(environments.python("mosec")), str(APPS / "mosec_app.py"), "--address", "127.0.0.1"]
    command += ["--port", str(port), "--path", str(folder / "sockets"), "--log-level", "warning"]
    with running(str(setting), command, port=port, ready="/", environment=given, folder=folder) as found:
        yield Peer(found, setting, "/inference", payloads.read_probabilities)


_START = {
    "litserve": _start_litserve,
    "mlserver": _start_mlserver,
    "bentoml": _start_bentoml,
    "mosec": _start_mosec,
}
