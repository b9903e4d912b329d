"""The shape of a function that does work in the child: `(order, files, folder, emit) -> result`, some with `ask`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from worker.documents import AnyReply, ChildEvent

#: The files that the child may read, by name.
Files = Mapping[str, Path]
#: Reports an event; plain progress is thinned out.
Emit = Callable[[ChildEvent], None]
#: Asks the supervisor what to do next, and waits for its reply.
Ask = Callable[[], AnyReply]
