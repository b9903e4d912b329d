"""The files of a release: complete, and as few as its use needs, in environments that were empty."""

from __future__ import annotations

import re
import tarfile
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
import yaml

import fedlas
from deploy.release import linked, project_of
from service.processes.api import create_app
from service.registry.settings import ServiceSettings
from tests.helpers.processes import free_port
from tests.packaging.conftest import DISTRIBUTIONS, PACKAGES, ROOT, Built, Environment

#: The most that the libraries of `fedlas[client]` may take.
CLIENT_MEGABYTES = 25
#: Libraries of `fedlas[scores]`: README says 0.5 GB on disk, with pip.
SCORES_MEGABYTES = 500


def test_the_version_is_said_once(tmp_path: Path) -> None:
    """The metadata, the library and the API's document say what pyproject.toml says."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    app = create_app(ServiceSettings(data_dir=tmp_path)).fastapi
    assert {version("fedlas"), fedlas.__version__, app.openapi()["info"]["version"]} == {declared}
    assert f"\nversion: {declared}\n" in (ROOT / "CITATION.cff").read_text()
    modules = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert [path for path in modules if f'"{declared}"' in path.read_text()] == []


def test_an_index_shows_what_a_distribution_is_and_whose() -> None:
    """Authors, keywords and licence are those of the citation; both have a text of their own and the paper's link."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    projects = [project_of(name, whole)["project"] for name in DISTRIBUTIONS]
    for project in projects:
        assert {name: project[name] for name in ("authors", "keywords", "license")} == {
            name: citation[name] for name in ("authors", "keywords", "license")
        }
        assert project["urls"] == {"Paper": citation["references"][0]["url"]}
        assert (
            f"Programming Language :: Python :: {project['requires-python'].removeprefix('>=')}"
            in project["classifiers"]
        )
    assert len({project["description"] for project in projects}) == len(DISTRIBUTIONS)
    text = linked(
        "![one](docs/a.svg), [two](docs/b.md#so), [three](#four) and [five](https://six)", "https://host/us/it", "v1"
    )
    assert text == (
        "![one](https://host/us/it/raw/v1/docs/a.svg), [two](https://host/us/it/blob/v1/docs/b.md#so), "
        "[three](#four) and [five](https://six)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_wheel_and_sdist_are_complete(built: dict[str, Built], distribution: str) -> None:
    """Every file of its packages is in both, with licence and notes; other packages, tests and data are in neither."""
    packages = DISTRIBUTIONS[distribution]
    ours = {
        str(path.relative_to(ROOT)) for name in packages for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip
    assert {f"{name}/py.typed" for name in packages} <= ours
    with ZipFile(built[distribution].wheel) as wheel:
        names = set(wheel.namelist())
    [about] = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    assert {name for name in names if not name.startswith(about)} == ours
    assert f"{about}/licenses/LICENSE" in names
    with tarfile.open(built[distribution].sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert ours | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names
    others = ("tests", *(name for name in PACKAGES if name not in packages))
    assert not [name for name in names if name.partition("/")[0] in others]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_base_client_and_command_line_in_an_empty_environment(
    built: dict[str, Built], empty: Callable[[], Environment], record_property: Callable[[str, object], None]
) -> None:
    """Each installation does what it is for, and says in a sentence what it is not."""
    environment, wheel = empty(), built["fedlas"].wheel
    environment.install(wheel)
    assert environment.python("import fedlas; print(fedlas.__version__)").stdout.strip() == fedlas.__version__
    assert environment.megabytes() < 0.1
    needed = {
        "metrics": "arrays",
        "losses": "library",
        "calibration": "arrays",
        "FedLASLoss": "library",
        "client": "client",
        "contract": "client",
    }
    for module, extra in needed.items():
        done = environment.python(f"import fedlas; from fedlas import {module}")
        assert done.stderr.splitlines()[-1].endswith(f"which is not installed: pip install 'fedlas[{extra}]'"), (
            done.stderr
        )
    done = environment.fedlas("--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'fedlas[cli]'" in done.stderr
    assert "Traceback" not in done.stderr

    environment.install(wheel, extra="client")
    done = environment.python("import sys; from fedlas.client import Client, AsyncClient; print(sorted(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert not {"numpy", "torch", "rich", "typer"} & set(done.stdout.split("'"))
    for absent in ("numpy", "service", "worker"):
        assert environment.python(f"import {absent}").returncode == 1
    size = environment.megabytes()
    record_property("client_megabytes", round(size, 1))
    assert size < CLIENT_MEGABYTES

    environment.install(wheel, extra="cli")
    assert environment.fedlas("--help").returncode == 0
    done = environment.fedlas("jobs", "ls", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    for command, extra in {"serve": "standalone", "demo": "standalone", "api": "service", "openapi": "service"}.items():
        done = environment.fedlas(command)
        assert (done.returncode, done.stdout) == (1, "")
        needed_for = f"`fedlas {command}` is not installed: pip install 'fedlas-service[{extra}]'"
        assert done.stderr == f"fedlas: {needed_for}\n"
    done = environment.fedlas("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"FedLAS: {fedlas.__version__}" in done.stdout
    assert "-> pip install 'fedlas[library]'" in done.stdout  # for the devices of ONNX Runtime and PyTorch


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_arrays_in_an_empty_environment(built: dict[str, Built], empty: Callable[[], Environment]) -> None:
    """Metrics and calibrators need NumPy, SciPy and pydantic, and nothing else."""
    environment = empty()
    environment.install(built["fedlas"].wheel, extra="arrays")
    done = environment.python(
        "import numpy as np\n"
        "from fedlas.metrics import ece\n"
        "from fedlas.calibrators import TemperatureScaling\n"
        "logits = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])\n"
        "labels = np.array([0, 1, 1])\n"
        "calibrator = TemperatureScaling().fit(logits, labels)\n"
        "probabilities = np.exp(calibrator(logits))\n"
        "probabilities /= probabilities.sum(axis=1, keepdims=True)\n"
        "print(f'{ece(probabilities, labels):.3f}')\n"
    )
    assert done.stdout.strip() == "0.000", done.stderr
    done = environment.python("from fedlas.client import Client")
    assert done.stderr.splitlines()[-1].endswith("pip install 'fedlas[client]'")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_promise_for_a_score_needs_no_pytorch(built: dict[str, Built], empty: Callable[[], Environment]) -> None:
    """README's first answer: a report from the small installation, which names what a written file needs."""
    environment = empty()
    environment.install(built["fedlas"].wheel, extra="scores")
    assert environment.megabytes() < SCORES_MEGABYTES
    environment.python("open('s.csv', 'w').write('score,label\\n' + '9,1\\n' * 300 + '5,1\\n5,0\\n' * 50)")
    fitting = ("calibrate", "s.csv", "--local", "--max-error", "0.05")
    done = environment.fedlas(*fitting, "--report", "report.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert environment.python("import torch").returncode == 1
    done = environment.fedlas(*fitting, "--out", "s.onnx")
    assert done.stderr.endswith("which is not installed: pip install 'fedlas[library]'\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_service_in_an_empty_environment(built: dict[str, Built], empty: Callable[[], Environment]) -> None:
    """Both wheels and what they name are a whole service: ready, with its worker, its pages and its document."""
    environment, address = empty(), f"127.0.0.1:{free_port()}"
    environment.install(*(built[name].wheel for name in DISTRIBUTIONS), extra="standalone")
    with environment.serving(address), httpx.Client(base_url=f"http://{address}", timeout=60) as http:
        page = http.get("/", headers={"Accept": "text/html"}).text
        assets = re.findall(r'(?:href|src)="(/[^"]+\.(?:css|js|svg)[^"]*)"', page)
        assert len(assets) > 3
        assert {http.get(asset).status_code for asset in assets} == {httpx.codes.OK}
        assert http.get("/openapi.json").json()["info"]["version"] == fedlas.__version__
        done = environment.fedlas("doctor", "--url", f"http://{address}")
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("an upload: a process that has loaded PyTorch takes", "workers: "):
        assert line in done.stdout
