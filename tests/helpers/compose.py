"""The Compose files as data, and a service of theirs as a process of this machine; no Docker is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from tests.helpers import Json
from tests.helpers.dockerfile import ROOT

#: Files that are laid over docker-compose.yml, each as deploy/docker-compose.….yml.
OVERLAYS = ("gpu", "tls", "s3", "flower")
FILES = ("docker-compose.yml", *(f"deploy/docker-compose.{name}.yml" for name in OVERLAYS))
#: The services of workers.
WORKERS = ("heavy", "light", "courier")
#: Our images, and the stage of the Dockerfile that each is.
STAGES = {"fedlas-api": "api", "fedlas-worker": "worker", "fedlas-worker-gpu": "worker"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def read(name: str) -> Json:
    """One of the files."""
    return dict(yaml.safe_load((ROOT / name).read_text()))


def overlay(name: str) -> Json:
    """One of the files that are laid over docker-compose.yml."""
    return read(f"deploy/docker-compose.{name}.yml")


def demanded() -> set[str]:
    """The variables without which a file is refused."""
    text = "".join((ROOT / name).read_text() for name in FILES)
    return {name for name, mark, _ in _VARIABLE.findall(text) if mark == "?"}


def variables(text: str) -> dict[str, str]:
    """The variables of an `.env` file."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def laid_over(service: Json, other: Json) -> Json:
    """A service with an overlay's part of it: repeated values replace, and mappings and lists grow."""
    grown = {**service, **other}
    for name in service.keys() & other.keys():
        if isinstance(other[name], dict):
            grown[name] = laid_over(service[name], other[name])
        elif isinstance(other[name], list) and name != "command":
            grown[name] = [*service[name], *other[name]]
    return grown


@dataclass(frozen=True)
class Placed:
    """The service's command and variables by `.env`, with each of `places` replaced by what stands for it here."""

    given: Mapping[str, str]
    places: Mapping[str, str]

    def command(self, service: Json) -> list[str]:
        """The command of a service."""
        return [self._here(word) for word in service["command"]]

    def environment(self, service: Json) -> dict[str, str]:
        """The environment of a service."""
        return {name: self._here(str(value)) for name, value in service.get("environment", {}).items()}

    def _here(self, text: str) -> str:
        filled = _VARIABLE.sub(self._value, text)
        for there, here in self.places.items():
            filled = filled.replace(there, here)
        return filled

    def _value(self, found: re.Match[str]) -> str:
        name, mark, default = found.groups()
        value = self.given.get(name, "")
        assert value or mark == "-", f"{name} is not given"
        return value or default
