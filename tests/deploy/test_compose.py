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
from stat import S_IMODE

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from pydantic_settings import BaseSettings

from service.registry.queues import ANY_DEVICE, GPU_ONLY, QUEUES
from service.registry.settings import ServiceSettings, WorkerSettings
from tests.helpers import compose as files
from tests.helpers.compose import FILES, OVERLAYS, STAGES, WORKERS, Json, overlay, read
from tests.helpers.dockerfile import ROOT, command_of, stages
from tests.helpers.programs import COMPOSE

SETTINGS: dict[str, type[BaseSettings]] = {"api": ServiceSettings, **dict.fromkeys(WORKERS, WorkerSettings)}
#: Values that an operator must choose.
OWN = {"FEDLAS_DOMAIN": "fedlas.example", "FEDLAS_FLOWER_LOGIN": "somebody:password"}


@pytest.fixture(scope="module")
def compose() -> Json:
    """The Compose file."""
    return read("docker-compose.yml")


@pytest.fixture(scope="module")
def everything(compose: Json) -> dict[str, Json]:
    """The services of all files, laid over one another."""
    found: dict[str, Json] = dict(compose["services"])
    for name in OVERLAYS:
        for service, part in overlay(name)["services"].items():
            found[service] = files.laid_over(found.get(service, {}), part)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an operator has typed `deploy/secrets.sh`."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "secrets.sh", folder / "deploy")
    shutil.copy(ROOT / ".env.example", folder)
    subprocess.run([folder / "deploy" / "secrets.sh"], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_valid_against_the_published_schema(name: str) -> None:
    """Every Compose file obeys the schema that the Compose project publishes."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(read(name))


@pytest.mark.parametrize("overlays", [(), *((name,) for name in OVERLAYS), OVERLAYS], ids="+".join)
def test_compose_itself_accepts_the_files(overlays: tuple[str, ...], made: Path) -> None:
    """Compose resolves the files with what `deploy/secrets.sh` makes; training asks for a GPU in one of them alone."""
    variables = made / "variables"
    given = {**files.variables((made / ".env").read_text()), **OWN}
    variables.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    done = _config(overlays, variables)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert [name for name, service in services.items() if "deploy" in service] == ["heavy"] * ("gpu" in overlays)
    ours = {name: service for name, service in services.items() if name in SETTINGS}
    assert {service["environment"]["FEDLAS_ARTIFACTS"] for service in ours.values()} == {
        "s3://fedlas" if "s3" in overlays else "/var/lib/fedlas/artifacts"
    }
    # Each image of ours is built by one service, and whoever shares it looks for it nowhere else.
    built = [service["image"] for service in services.values() if "build" in service]
    assert sorted(built) == sorted({service["image"] for service in services.values() if service["image"] in STAGES})
    assert all((one.get("pull_policy") == "never") is (one["image"] in STAGES) for one in services.values())


@pytest.mark.parametrize("missing", sorted(files.demanded()))
def test_compose_refuses_what_has_no_password(missing: str, made: Path) -> None:
    """Nothing has a default that others know: without one of the variables Compose says which."""
    variables = made / "less"
    given = {**files.variables((made / ".env").read_text()), **OWN}
    variables.write_text("".join(f"{name}={value}\n" for name, value in given.items() if name != missing))
    refused = _config(OVERLAYS, variables)
    assert refused.returncode != 0
    assert missing in refused.stderr


def test_the_hosted_run_reads_every_file() -> None:
    """A file that is laid over the first is not forgotten there, where its containers could be started."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    said = [step["run"] for step in jobs["images"]["steps"] if "run" in step]
    assert [text for text in said if f"for overlay in {' '.join(OVERLAYS)};" in text]
    assert [text.split()[0] for text in said if "three_requests.sh" in text] == ["docker", "docker"]
    assert set(jobs["images"]["env"]) == set(OWN)


def _config(overlays: tuple[str, ...], variables: Path) -> subprocess.CompletedProcess[str]:
    names = ("docker-compose.yml", *(f"deploy/docker-compose.{name}.yml" for name in overlays))
    command = [COMPOSE.needed(), "--env-file", str(variables), *(part for name in names for part in ("-f", name))]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FEDLAS_", "COMPOSE_"))}
    return subprocess.run([*command, "config", "--format", "json"], cwd=ROOT, env=clean, capture_output=True, text=True)


def test_the_secrets_are_random_and_stay(made: Path) -> None:
    """Secrets that Compose demands are made once; all may read the metrics key's file, in a closed folder."""
    environment, secret = made / ".env", made / "secrets" / "metrics_key"
    first = environment.read_text()
    given = files.variables(first)
    drawn = {given[name] for name in files.demanded() - set(OWN)}
    assert len(drawn) == len(files.demanded() - set(OWN)) == 6
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in drawn)
    assert secret.read_text() == given["FEDLAS_METRICS_KEY"]
    modes = [S_IMODE(path.stat().st_mode) for path in (environment, secret.parent, secret)]
    assert modes == [0o600, 0o700, 0o444]
    # An operator's own key, in a file of an earlier release that an editor has left without its last line break.
    older = first.replace(given["FEDLAS_METRICS_KEY"], "a-key-of-the-operators").partition("FEDLAS_BUCKET_PASSWORD=")[0]
    environment.write_text(older.rstrip() + "\nFEDLAS_PORT=8001")
    subprocess.run([made / "deploy" / "secrets.sh"], check=True, capture_output=True)
    again = files.variables(environment.read_text())
    password = again.pop("FEDLAS_BUCKET_PASSWORD")
    assert again == {**files.variables(older), "FEDLAS_PORT": "8001"}
    assert re.fullmatch("[0-9a-f]{48}", password)
    assert secret.read_text() == "a-key-of-the-operators"
    environment.write_text(first)


def test_read_only_containers_are_given_files_alone(compose: Json, everything: dict[str, Json]) -> None:
    """Files alone: Compose would copy all else into a container, which releases since 2.33.1 refuse at `up`."""
    sources = {
        kind: {name: source for file in map(read, FILES) for name, source in file.get(kind, {}).items()}
        for kind in ("secrets", "configs")
    }
    for name, service in everything.items():
        for kind, known in sources.items():
            given = [one if isinstance(one, str) else one["source"] for one in service.get(kind, [])]
            assert not service.get("read_only") or all(set(known[one]) == {"file"} for one in given), name
    assert everything["prometheus"]["secrets"] == ["metrics_key"]
    assert compose["secrets"]["metrics_key"] == {"file": "./secrets/metrics_key"}  # where secrets.sh writes it
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/.env", "/secrets/"} <= set(ignored)


def test_the_services_are_these_and_every_name_is_declared(compose: Json) -> None:
    """API, workers, broker, database and who watches them; what is named in any file exists in it or beneath it."""
    watching, beneath = {"prometheus", "grafana"}, compose
    assert set(compose["services"]) == {"api", *WORKERS, "valkey", "postgres", *watching}
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
                assert ends or known["services"][needed].keys() & {"healthcheck", "build"}  # its image has a check


def test_nothing_is_lost_and_nothing_is_open_by_default(compose: Json) -> None:
    """The broker appends and never evicts, keys are demanded, and what has a way out is not what opens uploads."""
    services = compose["services"]
    *broker, password = services["valkey"]["command"]
    assert broker == ["valkey-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction", "--requirepass"]
    assert password.startswith("${FEDLAS_BROKER_PASSWORD:?")
    for name in ("FEDLAS_API_KEY", "FEDLAS_METRICS_KEY"):
        assert f"${{{name}:?" in services["api"]["environment"][f"{name}S"]
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
        assert name in ("valkey", "postgres") or service["cap_drop"] == ["ALL"], name
        secrets = [value for key, value in service.get("environment", {}).items() if _is_secret(key)]
        assert all(":?" in str(value) for value in secrets), name
        assert "privileged" not in service
        assert "/var/run/docker.sock" not in json.dumps(service)


def _is_secret(variable: str) -> bool:
    return any(word in variable for word in ("PASSWORD", "SECRET", "KEYS", "AUTH", "DATABASE_URL", "BROKER_URL"))


def test_what_goes_out_opens_nothing(compose: Json) -> None:
    """The workers serve every queue between them, heavy and light apart; one has a way out, and delivers messages."""
    queues = {name: _queues(compose["services"][name]) for name in WORKERS}
    assert queues == {
        "heavy": {ANY_DEVICE},
        "light": set(QUEUES) - {GPU_ONLY, ANY_DEVICE, "deliver"},
        "courier": {"deliver"},
    }
    assert _queues(overlay("gpu")["services"]["heavy"]) == {GPU_ONLY, ANY_DEVICE}


def _queues(service: Json) -> set[str]:
    command = service["command"]
    return set(command[command.index("-Q") + 1].split(","))


def test_a_gpu_is_asked_for_where_there_is_one() -> None:
    """One NVIDIA device, for training alone; all workers are the image that can use it."""
    services = overlay("gpu")["services"]
    devices = services["heavy"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert {name: service["image"] for name, service in services.items()} == dict.fromkeys(WORKERS, "fedlas-worker-gpu")


def test_api_and_workers_share_records_files_and_messages(compose: Json) -> None:
    """All parts are given the same database, broker and folder of files, on the same volume, or the same bucket."""
    services = [compose["services"][name] for name in SETTINGS]
    for name in ("FEDLAS_DATABASE_URL", "FEDLAS_BROKER_URL", "FEDLAS_ARTIFACTS"):
        assert len({service["environment"][name] for service in services}) == 1
    mount = f"artifacts:{services[0]['environment']['FEDLAS_ARTIFACTS']}"
    assert all(mount in service["volumes"] for service in services)
    bucket = overlay("s3")["services"]
    assert all(bucket[name]["environment"] == bucket["bucket"]["environment"] for name in SETTINGS)
    assert "boto3" in _distributions({"s3"}, _extras())


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_is_a_setting_of_its_process(compose: Json, name: str) -> None:
    """No FEDLAS_ variable in the files is a slip of the pen that its process would silently ignore."""
    service = compose["services"][name]
    fields = {f"FEDLAS_{field.upper()}" for field in SETTINGS[name].model_fields}
    instructions = stages()[STAGES[service["image"]]]
    in_image = {word for kind, rest in instructions if kind == "ENV" for word in re.findall(r"(FEDLAS_\w+)=", rest)}
    in_compose = {key for key in service["environment"] if key.startswith("FEDLAS_")}
    assert in_image
    assert (in_image | in_compose) - fields == set()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_image_runs_what_compose_runs(compose: Json, name: str) -> None:
    """Compose adds options to the image's command, which runs as a user without rights; no health check needs curl."""
    service = compose["services"][name]
    target = STAGES[service["image"]]
    assert target == ("api" if name == "api" else "worker")
    assert service.get("build", {"target": target})["target"] == target
    command = command_of(target)
    assert service["command"][: len(command)] == command
    instructions = stages()[target]
    assert [rest for word, rest in instructions if word == "USER"] == ["fedlas"]
    health = next(rest for word, rest in instructions if word == "HEALTHCHECK")
    assert json.loads(health.partition("CMD")[2])[0] == "python"
    assert not any("curl" in rest for _, rest in instructions)


def test_the_images_install_extras_that_exist_and_the_api_no_pytorch() -> None:
    """All extras exist, the API has neither torch nor onnx; CPU builds, without CUDA, unless the GPU is asked for."""
    extras, arguments = _extras(), overlay("gpu")["services"]["heavy"]["build"]["args"]
    asked = {
        "api": _asked_extras("api"),
        "worker": _asked_extras("worker"),
        "gpu": _asked_extras("worker", **arguments),
    }
    assert asked["api"] == {"service", "postgresql", "s3"}
    assert asked["worker"] == {"worker", "postgresql", "s3"}
    assert asked["gpu"] == {"worker-gpu", "postgresql", "s3"}
    brought = {name: _distributions(found, extras) for name, found in asked.items()}
    runtimes = {"onnxruntime", "onnxruntime-gpu"}
    assert {name: found & runtimes for name, found in brought.items()} == {
        "api": {"onnxruntime"},
        "worker": {"onnxruntime"},
        "gpu": {"onnxruntime-gpu"},
    }
    assert {"torch", "onnx"}.isdisjoint(brought["api"])
    assert {"torch", "onnx", "onnxscript"} <= brought["worker"]
    assert {"numpy", "scipy", "pillow", "psycopg", "celery", "typer"} <= brought["api"] & brought["worker"]
    runs = {name: [rest for word, rest in stages()[name] if word == "RUN"] for name in ("api", "worker")}
    pips = [rest for found in runs.values() for rest in found if "pip install" in rest]
    assert [rest.split()[0] for rest in pips] == ["--mount=type=cache,target=/root/.cache/pip"] * 4  # not in the image
    assert '--extra-index-url "https://download.pytorch.org/whl/cpu"' in "".join(runs["worker"])
    assert arguments["TORCH_INDEX_URL"] == "https://pypi.org/simple"


def test_images_install_pinned_versions_of_the_declared_ranges() -> None:
    """All that an image asks for is pinned, within the range that pyproject.toml allows."""
    lines = (ROOT / "deploy/constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = {"service", "service-gpu", "worker", "worker-gpu", "postgresql", "s3"}
    requirements = [Requirement(line) for line in _requirements(asked, _extras())]
    assert len(requirements) > 30
    assert [str(found) for found in requirements if not found.specifier.contains(pins[found.name.lower()])] == []
    for stage in ("api", "worker"):
        [run] = [rest for word, rest in stages()[stage] if word == "RUN" and '".[' in rest]
        assert "pip install --constraint deploy/constraints.txt" in run


def _extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["optional-dependencies"])


def _asked_extras(stage: str, **arguments: str) -> set[str]:
    runs = [rest for word, rest in stages(**arguments)[stage] if word == "RUN"]
    return {extra for rest in runs for found in re.findall(r'"\.\[(.*?)\]"', rest) for extra in found.split(",")}


def _distributions(names: set[str], extras: dict[str, list[str]]) -> set[str]:
    """Distributions that these extras name, through extras of our own."""
    return {Requirement(line).name for line in _requirements(names, extras)}


def _requirements(names: set[str], extras: dict[str, list[str]]) -> set[str]:
    """Requirements that these extras name, through extras of our own."""
    found: set[str] = set()
    for line in (line for name in names for line in extras[name]):
        parsed = Requirement(line)
        found |= _requirements(parsed.extras, extras) if parsed.name == "fedlas" else {line}
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
