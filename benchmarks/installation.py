"""How much an installation is: its distributions, and their files; any Python can measure its own environment.

    .venv/bin/python benchmarks/installation.py

FedLAS itself and pip do not count: they are there before. Compiled modules (`.pyc`),
which pip makes of what it installs, are counted apart.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

_NOT_COUNTED = {"fedlas", "pip"}


def main() -> None:
    """Print the two figures."""
    found = {one.name: one for one in distributions() if one.name not in _NOT_COUNTED}
    sizes = {name: _megabytes(one) for name, one in found.items()}
    total, compiled = (sum(column) for column in zip(*sizes.values(), strict=True))
    print(f"{len(found)} distributions, {total:,.0f} MB, and {compiled:,.0f} MB of compiled modules")
    for name, (size, _) in sorted(sizes.items(), key=lambda item: -item[1][0])[:10]:
        print(f"{size:8.1f}  {name} {found[name].version}")


def _megabytes(one: Distribution) -> tuple[float, float]:
    """The megabytes of a distribution, and those of its compiled part."""
    sizes = {False: 0, True: 0}
    for file in one.files or []:
        path = file.locate()
        if path.is_file():
            sizes[file.suffix == ".pyc"] += path.stat().st_size
    return sizes[False] / 1e6, sizes[True] / 1e6


if __name__ == "__main__":
    main()
