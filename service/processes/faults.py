"""Faults: the ends of processes that a model may have brought about, told by how a process ended and what it ran.

A signal that the code of a process raises is the deed of the model in whose thread it was caught. Caught in another
thread, it may be anybody's; so may an end by the watchdog of the event loop, or by the kernel where memory runs out:
what ran then is suspect. SIGKILL has no sender: it counts only if the kernel has killed for memory since the process
was started.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence, Set
from pathlib import Path

from service.ipc.documents import Fault
from service.ipc.run_marks import Marked

_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)
#: Of `faulthandler`, which watches the event loop.
_HUNG = 1
_FIGURES = Path("/proc/vmstat")
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


#: What `faulthandler` writes of a thread, and of a call; a watchdog's stacks end with those of the main thread.
_THREAD = re.compile(r"(Current t|T)hread 0x")
_CALL = re.compile(r'  File "(.+)", line (\d+) in (.+)')


def place(stacks: Sequence[str]) -> str:
    """The call in which a process stood when `faulthandler` noted these stacks.

    >>> place(["Thread 0x1 (most recent call first):", '  File "/b.py", line 3 in f', '  File "/b.py", line 9 in g'])
    'f (/b.py, line 3)'
    """
    threads = [number for number, line in enumerate(stacks) if _THREAD.match(line)]
    (at, *_) = [number for number in threads if stacks[number].startswith("Current")] or threads[-1:] or [0]
    call = next(filter(None, map(_CALL.match, stacks[at + 1 : at + 2])), None)
    return "an unknown place" if call is None else f"{call[3]} ({call[1]}, line {call[2]})"


def oom_kills() -> int:
    """How many processes of this machine the kernel has killed for memory; 0 where it does not count them."""
    try:
        found = _OOM_KILLS.search(_FIGURES.read_text())
    except OSError:
        return 0
    return 0 if found is None else int(found[1])


def fault(code: int, marked: Marked, *, out_of_memory: bool) -> Fault | None:
    """What a process that has ended with this code was ended by; None where no model is at fault.

    Args:
        out_of_memory: the kernel has killed some process for memory while this one ran.
    """
    if -code in _CRASHES:
        models = marked.caught or marked.models
        outside = marked.caught == frozenset()  # of any run, which may have corrupted memory all the same
        return _fault(signal.Signals(-code).name, models, certain=len(models) == 1 and not outside)
    if code == _HUNG:
        return _fault("the watchdog of its event loop", marked.on_loop or marked.models, certain=False)
    if -code == signal.SIGKILL and out_of_memory:
        return _fault("SIGKILL, when memory ran out", marked.models, certain=False)
    return None


def _fault(how: str, models: Set[str], *, certain: bool) -> Fault | None:
    return Fault(how=how, models=sorted(models), certain=certain) if models else None
