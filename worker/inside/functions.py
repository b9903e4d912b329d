"""The shape of a function that does work in the child: `(order, files, folder, emit) -> result`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: The files that the child may read, by name.
Files = Mapping[str, Path]
#: Reports an event (`worker.documents.ChildEvent`); events that are not `important` are thinned out.
JsonObject = dict[str, Any]
Emit = Callable[[JsonObject], None]
