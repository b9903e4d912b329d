"""The distributions of a release, each as wheel and sdist: `fedlas`, and `fedlas-service`, which depends on it.

    python deploy/release.py dist                 # a new folder, or one without older files
    python deploy/release.py dist https://…/…     # for an index: links lead to that repository, at the version's tag

A clone installs everything at once, by its pyproject.toml. Here each distribution gets a tree with its own packages and
a pyproject.toml made of that one: `[tool.fedlas-service]` names the packages and extras that leave `fedlas`; entry
points and data go where their package goes, and an extra that names others names them where they are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "fedlas"
SERVICE = "fedlas-service"
NOTES = ("MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md")
#: A picture or a link of Markdown to a file of the repository: a picture's mark, the words, the file.
_OWN_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!\w+:|#)([^)\s]+)\)")
_OWN_EXTRAS = re.compile(rf"{LIBRARY}\[(.*)\]")

Table = dict[str, Any]


def main(target: str, repository: str = "") -> None:
    """Build both into the folder; a build that fails ends the program."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tag = f"v{whole['project']['version']}"
    if repository:
        pages = {"Source": f"tree/{tag}", "Changelog": f"blob/{tag}/CHANGELOG.md", "Issues": "issues"}
        whole["project"]["urls"] |= {name: f"{repository}/{page}" for name, page in pages.items()}
    for name in (LIBRARY, SERVICE):
        with TemporaryDirectory() as tree:
            project = project_of(name, whole)
            for package in project["tool"]["setuptools"]["package-data"]:
                shutil.copytree(ROOT / package, Path(tree, package), ignore=shutil.ignore_patterns("__pycache__"))
            for note in NOTES:
                shutil.copy(ROOT / note, tree)
            if repository:
                Path(tree, "README.md").write_text(linked((ROOT / "README.md").read_text(), repository, tag))
            Path(tree, "pyproject.toml").write_text("\n".join(toml(project)) + "\n")
            subprocess.run([sys.executable, "-m", "build", "--outdir", target, tree], check=True)


def project_of(name: str, whole: Table) -> Table:
    """The pyproject.toml of a distribution, made of the one of the clone."""
    apart, project, setuptools = whole["tool"][SERVICE], whole["project"], whole["tool"]["setuptools"]
    data = {
        package: files
        for package, files in setuptools["package-data"].items()
        if (package in apart["packages"]) == (name == SERVICE)
    }
    extras = {
        extra: [part for requirement in needed for part in divided(requirement, apart["extras"])]
        for extra, needed in project["optional-dependencies"].items()
        if (extra in apart["extras"]) == (name == SERVICE)
    }
    own: Table = {"name": name, "optional-dependencies": extras}
    if name == SERVICE:
        own |= {"description": apart["description"], "dependencies": [f"{LIBRARY}=={project['version']}"]}
    own["scripts"] = _within(data, project["scripts"])
    own["entry-points"] = {group: _within(data, points) for group, points in project["entry-points"].items()}
    find = {"include": [f"{package}*" for package in data]}
    return {
        "build-system": whole["build-system"],
        "project": {**project, **own},
        "tool": {"setuptools": {"packages": {"find": find}, "package-data": data}},
    }


def linked(text: str, repository: str, tag: str) -> str:
    """Markdown whose pictures and links lead into the repository: an index shows it with no file beside it."""
    places = {"!": "raw", "": "blob"}
    return _OWN_LINK.sub(lambda one: f"{one[1]}{one[2]}({repository}/{places[one[1]]}/{tag}/{one[3]})", text)


def divided(requirement: str, apart: list[str]) -> Iterator[str]:
    """A requirement, which is two where it names extras of both distributions."""
    if (found := _OWN_EXTRAS.fullmatch(requirement)) is None:
        yield requirement
        return
    extras = found[1].split(",")
    for name, named in (
        (LIBRARY, [extra for extra in extras if extra not in apart]),
        (SERVICE, [extra for extra in extras if extra in apart]),
    ):
        if named:
            yield f"{name}[{','.join(named)}]"


def _within(packages: Mapping[str, object], points: Mapping[str, str]) -> dict[str, str]:
    return {name: place for name, place in points.items() if place.partition(":")[0].partition(".")[0] in packages}


def toml(table: Table, *path: str) -> Iterator[str]:
    """Lines of a table of texts, lists and tables."""
    for name, value in table.items():
        if not isinstance(value, dict):
            yield f"{json.dumps(name)} = {_value(value)}"
    for name, value in table.items():
        if isinstance(value, dict):
            yield f"[{'.'.join(map(json.dumps, (*path, name)))}]"
            yield from toml(value, *path, name)


def _value(value: object) -> str:
    """A text as JSON writes it, a list, or a table within a list."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)} = {_value(inner)}' for name, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
