"""The files for KServe, read as data: the command knows their arguments, and their paths are answered."""

from __future__ import annotations

from typing import Any

import yaml

from service.cli import parser
from service.http.access import is_open
from service.registry.settings import ServiceSettings
from tests.helpers import ROOT
from tests.helpers.compose import read

FOLDER = ROOT / "deploy" / "kserve"
RUNTIME: dict[str, Any] = yaml.safe_load((FOLDER / "runtime.yaml").read_text())
SERVICE: dict[str, Any] = yaml.safe_load((FOLDER / "inference-service.yaml").read_text())


def test_the_command_knows_its_arguments() -> None:
    """Arguments are those of KServe's own runtimes, and bind the port that is probed, scraped and exposed."""
    (container,) = RUNTIME["spec"]["containers"]
    program, command = container["command"]
    options = parser().parse_args([command, *container["args"]])
    assert (program, container["name"]) == ("fedlas", "kserve-container")
    assert (str(options.model_dir), options.model_name, options.host) == ("/mnt/models", "{{.Name}}", "0.0.0.0")
    probes = [container[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")]
    ports = {probe["port"] for probe in probes} | {port["containerPort"] for port in container["ports"]}
    assert ports == {options.port} == {int(RUNTIME["spec"]["annotations"]["prometheus.kserve.io/port"])}
    assert [probe["path"] for probe in probes] == ["/v2/health/ready", "/v2/health/live"]
    assert all(is_open(probe["path"]) for probe in probes)
    assert container["image"] == read("docker-compose.yml")["services"]["api"]["image"]


def test_keys_come_from_a_secret_that_must_be_there() -> None:
    """Without keys the server would bind loopback: a pod without the Secret does not start, and no key is in a file."""
    (variable,) = RUNTIME["spec"]["containers"][0]["env"]
    assert variable["name"] == "FEDLAS_API_KEYS"
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "fedlas-api-keys", "key": "keys"}
    assert ServiceSettings(host="0.0.0.0", api_keys=frozenset({"0123456789abcdef" * 2})).listen_host == "0.0.0.0"


def test_the_service_names_the_runtime() -> None:
    """Name, format and protocol are those of the runtime, and requests in flight have their time."""
    predictor = SERVICE["spec"]["predictor"]
    formats = {one["name"] for one in RUNTIME["spec"]["supportedModelFormats"]}
    assert predictor["model"]["runtime"] == RUNTIME["metadata"]["name"]
    assert predictor["model"]["modelFormat"]["name"] in formats
    assert [predictor["model"]["protocolVersion"]] == RUNTIME["spec"]["protocolVersions"]
    assert predictor["terminationGracePeriodSeconds"] > ServiceSettings().shutdown_seconds
