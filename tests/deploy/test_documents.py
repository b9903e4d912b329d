"""The documents say what the code does: the settings, the links, and the names that must not appear."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.registry.settings import RegistrySettings, ServiceSettings, ServingSettings, WorkerSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])


def settings_table() -> list[str]:
    """One line per setting: both processes' first, then the API's, those of predictions last, then the worker's."""
    shared = RegistrySettings.model_fields
    api = {name: field for name, field in ServiceSettings.model_fields.items() if name not in shared}
    own = [
        ("both", shared),
        ("API", dict(sorted(api.items(), key=lambda item: item[0] in ServingSettings.model_fields))),
        ("worker", {name: field for name, field in WorkerSettings.model_fields.items() if name not in shared}),
    ]
    lines = [line(process, name, field) for process, fields in own for name, field in fields.items()]
    return ["| variable | read by | default | |", "|---|---|---|---|", *lines]


def line(process: str, name: str, field: FieldInfo) -> str:
    """A row of the table; a default of None or nothing is explained by the description."""
    assert field.default is not PydanticUndefined
    shown = "" if field.default in (None, frozenset(), ()) else f"`{field.default}`"
    assert field.description, name
    return f"| `FEDLAS_{name.upper()}` | {process} | {shown} | {field.description} |"


def test_the_settings_are_documented_as_they_are() -> None:
    """The table in docs/reference/settings.md has every setting with its default and description, and nothing else."""
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    found = text.partition("test_documents.py -->\n")[2].partition("\n<!-- /settings")[0].splitlines()
    assert found == settings_table()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    """Every relative link names a file or folder that exists."""
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


def test_the_example_environment_is_what_compose_asks_for() -> None:
    """`.env.example` names every variable that the Compose files read, and no other."""
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("docker-compose.*.yml")]
    asked = {name for file in files for name in re.findall(r"\$\{(FEDLAS_\w+)", file.read_text())}
    named = set(re.findall(r"^(FEDLAS_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert named == asked


def test_the_constraints_admit_what_is_required() -> None:
    """The tree of the figures is one that pyproject.toml allows."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "benchmarks" / "constraints.txt").read_text(), re.MULTILINE))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [*declared["project"]["optional-dependencies"].values(), *declared["dependency-groups"].values()]
    asked = [Requirement(line) for lines in lists for line in lines if isinstance(line, str)]
    pinned = [one for one in asked if canonicalize_name(one.name) in versions]
    assert len(pinned) > 30
    assert [one for one in pinned if not one.specifier.contains(versions[canonicalize_name(one.name)])] == []


def test_the_readme_is_short_enough_to_be_read() -> None:
    """The README has at most 250 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250
