"""The process of one check: it writes each finding as a line of JSON as soon as it is known, and never fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from fedlas.extras import command


def main(place: str, extra: str) -> None:
    """Run the check at `module:function`, which gives mappings with `name`, `status`, `found` and maybe `remedy`.

    Args:
        extra: brings the libraries of the check; where one is missing there is nothing to check.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no finding
    module, _, name = place.partition(":")
    try:
        check: Callable[[], Iterable[dict[str, Any]]] = getattr(import_module(module), name)
        for finding in check():
            answers.write(json.dumps(finding) + "\n")
    except ModuleNotFoundError as error:
        line = {"status": "skip", "found": f"{error.name} is not installed", "remedy": command(extra)}
        answers.write(json.dumps(line) + "\n")
    except Exception as error:
        found = f"the check itself failed: {type(error).__name__}: {error}"
        answers.write(json.dumps({"status": "fail", "found": found}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
