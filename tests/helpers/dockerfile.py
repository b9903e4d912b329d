"""The stages of the Dockerfile and their commands."""

from __future__ import annotations

import json
import re

from tests.helpers import ROOT


def stages(**arguments: str) -> dict[str, list[tuple[str, str]]]:
    """Stage → its instructions in order, those of the stages it builds on first, with these arguments of the build."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        for name, value in arguments.items():
            line = line.replace(f"${{{name}}}", value)
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = found[name] = [*found.get(parent, [])]
        elif word == "ARG":
            name, _, default = rest.partition("=")
            arguments.setdefault(name, default)
        else:
            current.append((word, rest.strip()))
    return found


def command_of(stage: str) -> list[str]:
    """The CMD of a stage."""
    return list(json.loads([rest for word, rest in stages()[stage] if word == "CMD"][-1]))
