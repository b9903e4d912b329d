"""The Compose file and the Dockerfile, read as data: valid, consistent with the code, and safe by default."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic_settings import BaseSettings

from service.registry.contract import GPU_ONLY, QUEUES
from service.settings import ServiceSettings
from tests.helpers.dockerfile import ROOT, command_of, stages
from worker.settings import WorkerSettings

Json = dict[str, Any]

#: Both run the worker's image.
COURIERS = ("worker", "courier")
SETTINGS: dict[str, type[BaseSettings]] = {"api": ServiceSettings, "worker": WorkerSettings}
#: Where the Compose plugin is installed when Docker itself is not.
PLUGIN = Path("/usr/libexec/docker/cli-plugins/docker-compose")


@pytest.fixture(scope="module")
def compose() -> Json:
    """The Compose file."""
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def test_the_file_is_valid_against_the_published_schema(compose: Json) -> None:
    """The Compose file obeys the schema that the Compose project publishes."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(compose)


@pytest.mark.parametrize("overlay", [[], ["deploy/docker-compose.cpu.yml"]])
def test_compose_itself_accepts_the_files(overlay: list[str]) -> None:
    """Where Compose is installed it resolves the files, and without keys it refuses to."""
    program = shutil.which("docker-compose") or (str(PLUGIN) if PLUGIN.is_file() else None)
    if program is None:
        pytest.skip("Compose is not installed")
    files = [part for name in ("docker-compose.yml", *overlay) for part in ("-f", name)]
    command = [program, *files, "config", "--format", "json"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
    refused = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "FEDLAS_API_KEYS" in refused.stderr
    done = subprocess.run(command, cwd=ROOT, env={**clean, "FEDLAS_API_KEYS": "k"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reservations = json.loads(done.stdout)["services"]["worker"]["deploy"]["resources"]["reservations"]
    assert ("devices" in reservations) is not bool(overlay)


def test_there_are_the_five_services_and_every_name_is_declared(compose: Json) -> None:
    """API, worker, courier, broker and database; every volume, network and dependency that is used exists."""
    services = compose["services"]
    assert set(services) == {"api", "worker", "courier", "redis", "postgres"}
    for service in services.values():
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert named <= set(compose["volumes"])
        assert set(service["networks"]) <= set(compose["networks"])
        for needed, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[needed]


def test_nothing_is_lost_and_nothing_is_open_by_default(compose: Json) -> None:
    """The broker appends and never evicts, keys are demanded, and only the API is reachable, from loopback."""
    services = compose["services"]
    redis = services["redis"]["command"]
    assert redis == ["redis-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    assert services["api"]["environment"]["FEDLAS_API_KEYS"].startswith("${FEDLAS_API_KEYS:?")
    assert [name for name, service in services.items() if "ports" in service] == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in services["api"]["ports"])
    assert [name for name, service in services.items() if "outside" in service["networks"]] == ["api", "courier"]
    assert compose["networks"]["inside"]["internal"] is True


def test_what_goes_out_opens_nothing(compose: Json) -> None:
    """Worker and courier serve every queue between them; the one with a way out delivers messages and nothing else."""
    services = compose["services"]
    queues = {name: set(services[name]["environment"]["FEDLAS_WORKER_QUEUES"].split(",")) for name in COURIERS}
    assert queues == {"worker": set(QUEUES) - {"deliver"}, "courier": {"deliver"}}
    text = (ROOT / "deploy" / "docker-compose.cpu.yml").read_text().replace("!reset", "")  # a tag of Compose's own
    overlay = yaml.safe_load(text)["services"]["worker"]
    on_cpu = set(overlay["environment"]["FEDLAS_WORKER_QUEUES"].split(","))
    assert on_cpu == queues["worker"] - {GPU_ONLY}


def test_the_worker_asks_for_a_gpu(compose: Json) -> None:
    """One NVIDIA device is reserved for the worker alone."""
    devices = compose["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert [name for name, service in compose["services"].items() if "deploy" in service] == ["worker"]


def test_api_and_worker_share_records_files_and_messages(compose: Json) -> None:
    """Both parts are given the same database, broker and folder of files, on the same volume."""
    services = [compose["services"][name] for name in ("api", *COURIERS)]
    for name in ("FEDLAS_DATABASE_URL", "FEDLAS_BROKER_URL", "FEDLAS_ARTIFACTS"):
        assert len({service["environment"][name] for service in services}) == 1
    mount = f"artifacts:{services[0]['environment']['FEDLAS_ARTIFACTS']}"
    assert all(mount in service["volumes"] for service in services)


@pytest.mark.parametrize("name", ["api", "worker"])
def test_every_variable_is_a_setting_of_its_process(compose: Json, name: str) -> None:
    """No FEDLAS_ variable in the files is a slip of the pen that its process would silently ignore."""
    fields = {f"FEDLAS_{field.upper()}" for field in SETTINGS[name].model_fields}
    in_image = {word for kind, rest in stages()[name] if kind == "ENV" for word in re.findall(r"(FEDLAS_\w+)=", rest)}
    in_compose = {key for key in compose["services"][name]["environment"] if key.startswith("FEDLAS_")}
    assert in_image
    assert (in_image | in_compose) - fields == set()


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_image_runs_what_compose_runs(compose: Json, name: str) -> None:
    """The image alone runs the same command, as a user without rights, and is asked for its health without curl."""
    service = compose["services"][name]
    assert service["build"]["target"] == name
    assert service["command"] == command_of(name)
    instructions = stages()[name]
    assert [rest for word, rest in instructions if word == "USER"] == ["fedlas"]
    health = next(rest for word, rest in instructions if word == "HEALTHCHECK")
    assert json.loads(health.partition("CMD")[2])[0] == "python"
    assert not any("curl" in rest for _, rest in instructions)


def test_the_images_install_extras_that_exist_and_the_api_no_pytorch() -> None:
    """Every extra that pip is asked for is declared, and the API's closure of extras names neither torch nor onnx."""
    extras: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    asked = {name: _asked_extras(name) for name in ("api", "worker")}
    assert asked == {"api": {"service", "postgresql"}, "worker": {"worker", "postgresql"}}
    assert set().union(*asked.values()) <= set(extras)
    brought = {name: _distributions(found, extras) for name, found in asked.items()}
    assert {"torch", "onnx"}.isdisjoint(brought["api"])
    assert {"torch", "onnx", "onnxscript"} <= brought["worker"]
    assert {"numpy", "scipy", "pillow", "onnxruntime", "psycopg", "celery", "typer"} <= brought["api"] & brought[
        "worker"
    ]


def _asked_extras(stage: str) -> set[str]:
    lists = [match for word, rest in stages()[stage] if word == "RUN" for match in re.findall(r'"\.\[(.*?)\]"', rest)]
    return {extra for found in lists for extra in found.split(",")}


def _distributions(names: set[str], extras: dict[str, list[str]]) -> set[str]:
    """Distributions that these extras name, through extras of our own."""
    found: set[str] = set()
    for requirement in (line for name in names for line in extras[name]):
        name, own = re.match(r"([\w.-]+)(?:\[(.*?)\])?", requirement).groups()  # type: ignore[union-attr]
        found |= _distributions(set(own.split(",")), extras) if name == "fedlas" else {name}
    return found


def test_the_builder_is_sent_everything_that_is_copied_and_little_else() -> None:
    """Every source of a COPY exists and passes .dockerignore; caches, data and secrets do not."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = [line[1:].rstrip("/") for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    copied = {
        source for name in stages() for word, rest in stages()[name] if word == "COPY" for source in rest.split()[:-1]
    }
    assert copied == set(allowed)
    assert all((ROOT / source).exists() for source in copied)
    for unwanted in (".git", ".venv", "fedlas-data", "tests", ".env"):
        assert not any(fnmatch(unwanted, pattern) for pattern in allowed)
