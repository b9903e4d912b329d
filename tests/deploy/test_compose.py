"""The Compose file and the Dockerfile, read as data: valid, consistent with the code, and safe by default."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic_settings import BaseSettings

from service.registry.contract import ANY_DEVICE, GPU_ONLY, QUEUES
from service.settings import ServiceSettings
from tests.helpers.dockerfile import ROOT, command_of, stages
from tests.helpers.programs import COMPOSE
from worker.settings import WorkerSettings

Json = dict[str, Any]

#: All run the worker's image.
WORKERS = ("heavy", "light", "courier")
#: What is laid over the Compose file.
OVERLAYS = ("cpu", "tls", "flower", "minio")
SETTINGS: dict[str, type[BaseSettings]] = {"api": ServiceSettings, **dict.fromkeys(WORKERS, WorkerSettings)}
#: What has no default, in the file itself and with everything laid over it.
NEEDED = ("FEDLAS_API_KEYS", "FEDLAS_METRICS_KEY", "FEDLAS_GRAFANA_PASSWORD")
NEEDED_BY_OVERLAYS = ("FEDLAS_DOMAIN", "FEDLAS_FLOWER_LOGIN", "FEDLAS_MINIO_PASSWORD")


def read(name: str) -> Json:
    """One of the files; `!reset` is a tag of Compose's own."""
    return dict(yaml.safe_load((ROOT / name).read_text().replace("!reset", "")))


def overlay(name: str) -> Json:
    """What is laid over the Compose file."""
    return read(f"deploy/docker-compose.{name}.yml")


@pytest.fixture(scope="module")
def compose() -> Json:
    """The Compose file."""
    return read("docker-compose.yml")


@pytest.fixture(scope="module")
def everything(compose: Json) -> dict[str, Json]:
    """The services of all files; of one that an overlay only changes, as it is without it."""
    laid = [overlay(name)["services"] for name in OVERLAYS]
    return {name: service for services in (*laid, compose["services"]) for name, service in services.items()}


@pytest.mark.parametrize("name", ["docker-compose.yml", *(f"deploy/docker-compose.{name}.yml" for name in OVERLAYS)])
def test_the_file_is_valid_against_the_published_schema(name: str) -> None:
    """Every Compose file obeys the schema that the Compose project publishes."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(read(name))


@pytest.mark.parametrize("overlays", [(), ("cpu",), ("cpu", "tls", "flower", "minio")])
def test_compose_itself_accepts_the_files(overlays: tuple[str, ...]) -> None:
    """Where Compose is installed it resolves the files, and without keys it refuses to."""
    names = ("docker-compose.yml", *(f"deploy/docker-compose.{name}.yml" for name in overlays))
    command = [COMPOSE.needed(), *(part for name in names for part in ("-f", name)), "config", "--format", "json"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
    given = dict.fromkeys(NEEDED if len(overlays) < 2 else (*NEEDED, *NEEDED_BY_OVERLAYS), "k")
    for missing in given:
        less = {name: value for name, value in given.items() if name != missing}
        refused = subprocess.run(command, cwd=ROOT, env={**clean, **less}, capture_output=True, text=True)
        assert refused.returncode != 0
        assert missing in refused.stderr
    done = subprocess.run(command, cwd=ROOT, env={**clean, **given}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert ("devices" in services["heavy"]["deploy"]["resources"]["reservations"]) is not bool(overlays)
    assert {service["environment"]["FEDLAS_ARTIFACTS"] for name, service in services.items() if name in SETTINGS} == {
        "s3://fedlas" if "minio" in overlays else "/var/lib/fedlas/artifacts"
    }


def test_the_services_are_these_and_every_name_is_declared(compose: Json) -> None:
    """API, workers, broker, database and who watches them; what is named in any file exists in it or beneath it."""
    watching, beneath = {"prometheus", "grafana"}, compose
    assert set(compose["services"]) == {"api", *WORKERS, "redis", "postgres", *watching}
    for file in (compose, *(overlay(name) for name in OVERLAYS)):
        known = {
            part: {**beneath.get(part, {}), **file.get(part, {})}
            for part in ("volumes", "networks", "secrets", "services")
        }
        for service in file["services"].values():
            named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
            assert {name for name in named if not name.startswith("./")} <= set(known["volumes"])
            assert all((ROOT / name).exists() for name in named if name.startswith("./"))
            assert set(service.get("networks", [])) <= set(known["networks"])
            assert set(service.get("secrets", [])) <= set(known["secrets"])
            for needed, condition in service.get("depends_on", {}).items():
                ends = condition == {"condition": "service_completed_successfully"}
                assert ends or condition == {"condition": "service_healthy"}
                assert ends or known["services"][needed].keys() & {"healthcheck", "build"}  # of its image


def test_nothing_is_lost_and_nothing_is_open_by_default(compose: Json) -> None:
    """The broker appends and never evicts, keys are demanded, and what has a way out is not what opens uploads."""
    services = compose["services"]
    redis = services["redis"]["command"]
    assert redis == ["redis-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    for name in ("FEDLAS_API_KEYS", "FEDLAS_METRICS_KEY"):
        assert f"${{{name}:?" in services["api"]["environment"]["FEDLAS_API_KEYS"]
    keyed = [name for name, service in services.items() if "FEDLAS_API_KEYS" in service.get("environment", ())]
    assert keyed == ["api"]
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${FEDLAS_GRAFANA_PASSWORD:?")
    assert [name for name, service in services.items() if "outside" in service["networks"]] == ["api", "courier"]
    assert [name for name, service in services.items() if "monitoring" in service["networks"]] == [
        "prometheus",
        "grafana",
    ]
    assert compose["networks"]["inside"]["internal"] is True


def test_services_are_read_only_and_only_the_proxy_is_reached_from_elsewhere(everything: dict[str, Json]) -> None:
    """Nothing writes into an image, rights are dropped, ports are loopback's, and no secret stands in a file."""
    published = {name: service["ports"] for name, service in everything.items() if "ports" in service}
    assert set(published) == {"api", "grafana", "flower", "proxy"}
    assert published.pop("proxy") == ["80:80", "443:443"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    for name, service in everything.items():
        assert service["read_only"] is True, name
        assert name in ("redis", "postgres") or service["cap_drop"] == ["ALL"], name
        secrets = [value for key, value in service.get("environment", {}).items() if _is_secret(key)]
        assert all("${" in str(value) for value in secrets), name
        assert "privileged" not in service
        assert "/var/run/docker.sock" not in json.dumps(service)


def _is_secret(variable: str) -> bool:
    return any(word in variable for word in ("PASSWORD", "SECRET", "KEYS", "AUTH", "MC_HOST", "DATABASE_URL"))


def test_what_goes_out_opens_nothing(compose: Json) -> None:
    """The workers serve every queue between them, heavy and light apart; one has a way out, and delivers messages."""
    queues = {name: _queues(compose["services"][name]) for name in WORKERS}
    assert queues == {
        "heavy": {GPU_ONLY, ANY_DEVICE},
        "light": set(QUEUES) - {GPU_ONLY, ANY_DEVICE, "deliver"},
        "courier": {"deliver"},
    }
    assert _queues(overlay("cpu")["services"]["heavy"]) == {ANY_DEVICE}


def _queues(service: Json) -> set[str]:
    command = service["command"]
    return set(command[command.index("-Q") + 1].split(","))


def test_the_heavy_worker_asks_for_a_gpu(compose: Json) -> None:
    """One NVIDIA device is reserved, for it alone."""
    devices = compose["services"]["heavy"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert [name for name, service in compose["services"].items() if "deploy" in service] == ["heavy"]


def test_api_and_workers_share_records_files_and_messages(compose: Json) -> None:
    """All parts are given the same database, broker and folder of files, on the same volume, or the same bucket."""
    services = [compose["services"][name] for name in SETTINGS]
    for name in ("FEDLAS_DATABASE_URL", "FEDLAS_BROKER_URL", "FEDLAS_ARTIFACTS"):
        assert len({service["environment"][name] for service in services}) == 1
    mount = f"artifacts:{services[0]['environment']['FEDLAS_ARTIFACTS']}"
    assert all(mount in service["volumes"] for service in services)
    bucket = overlay("minio")["services"]
    assert all(bucket[name]["environment"] == bucket["api"]["environment"] for name in SETTINGS)
    assert "boto3" in _distributions({"s3"}, _extras())


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_is_a_setting_of_its_process(compose: Json, name: str) -> None:
    """No FEDLAS_ variable in the files is a slip of the pen that its process would silently ignore."""
    service = compose["services"][name]
    fields = {f"FEDLAS_{field.upper()}" for field in SETTINGS[name].model_fields}
    instructions = stages()[service["build"]["target"]]
    in_image = {word for kind, rest in instructions if kind == "ENV" for word in re.findall(r"(FEDLAS_\w+)=", rest)}
    in_compose = {key for key in service["environment"] if key.startswith("FEDLAS_")}
    assert in_image
    assert (in_image | in_compose) - fields == set()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_image_runs_what_compose_runs(compose: Json, name: str) -> None:
    """Compose adds options to the image's command, which runs as a user without rights; no health check needs curl."""
    service = compose["services"][name]
    target = service["build"]["target"]
    assert target == ("api" if name == "api" else "worker")
    command = command_of(target)
    assert service["command"][: len(command)] == command
    instructions = stages()[target]
    assert [rest for word, rest in instructions if word == "USER"] == ["fedlas"]
    health = next(rest for word, rest in instructions if word == "HEALTHCHECK")
    assert json.loads(health.partition("CMD")[2])[0] == "python"
    assert not any("curl" in rest for _, rest in instructions)


def test_the_images_install_extras_that_exist_and_the_api_no_pytorch() -> None:
    """Every extra that pip is asked for is declared, and the API's closure of extras names neither torch nor onnx."""
    extras = _extras()
    asked = {name: _asked_extras(name) for name in ("api", "worker")}
    assert asked == {"api": {"service", "postgresql", "s3"}, "worker": {"worker", "postgresql", "s3"}}
    assert set().union(*asked.values()) <= set(extras)
    brought = {name: _distributions(found, extras) for name, found in asked.items()}
    assert {"torch", "onnx"}.isdisjoint(brought["api"])
    assert {"torch", "onnx", "onnxscript"} <= brought["worker"]
    assert {"numpy", "scipy", "pillow", "onnxruntime", "psycopg", "celery", "typer"} <= brought["api"] & brought[
        "worker"
    ]


def _extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["optional-dependencies"])


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
