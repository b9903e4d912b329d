"""The memory of processes: limits of control groups, what a process holds, and words that tell of a lack."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from service import process_memory
from service.process_memory import cgroup_limits, free_bytes, held_bytes, lacked_memory, memory_bytes

GIBIBYTE = 1024**3


def test_every_group_above_a_process_may_limit_it(tmp_path: Path) -> None:
    """In either version of control groups the files of the own group, of its parents and of the root are looked at."""
    own = tmp_path / "cgroup"
    own.write_text("9:name=systemd:/a\n4:memory:/box/one\n1:cpu:/other\n0::/user.slice/me.scope\n")
    assert list(map(str, cgroup_limits(own))) == [
        "/sys/fs/cgroup/memory/box/one/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/box/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/user.slice/me.scope/memory.max",
        "/sys/fs/cgroup/user.slice/memory.max",
        "/sys/fs/cgroup/memory.max",
    ]
    assert list(cgroup_limits(tmp_path / "none")) == []


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of a group above is the process' own; `max`, and a group that this container does not show, are none."""
    machine = memory_bytes()
    for name, limit in (("a", "max\n"), ("b", f"{GIBIBYTE}\n"), ("c", f"{2 * GIBIBYTE}\n")):
        (tmp_path / name).write_text(limit)
    monkeypatch.setattr(process_memory, "cgroup_limits", lambda: [tmp_path / name for name in ("a", "none")])
    assert memory_bytes() >= machine
    monkeypatch.setattr(process_memory, "cgroup_limits", lambda: [tmp_path / name for name in "abc"])
    assert memory_bytes() == GIBIBYTE
    assert 0 < free_bytes() <= GIBIBYTE


def test_what_is_held_is_what_the_kernel_limits() -> None:
    """Private memory grows by what is allocated, and is never less than what RLIMIT_DATA would refuse."""
    before = held_bytes()
    block = bytearray(64 * 1024**2)
    after = held_bytes()
    assert after["data"] - before["data"] >= len(block)
    assert after["resident"] - before["resident"] > len(block) // 2
    assert after["address_space"] >= after["data"] > resource.getpagesize()


@pytest.mark.parametrize(
    "words",
    [
        "std::bad_alloc",
        "libgomp: Thread creation failed: Resource",
        "MemoryError: x",
        "orjson.so: failed to map segment from shared object",
    ],
)
def test_a_lack_is_known_by_the_words_of_libraries(words: str) -> None:
    """The C++ library, OpenMP, Python and the loader each say it in their own way; other words are none."""
    assert lacked_memory(RuntimeError(words))
    assert not lacked_memory(RuntimeError("bad argument"))
