"""The calibration benchmark: `python benchmarks/calibration.py`; it knows the library and nothing of the service.

Every finished (setting, seed) lies in `benchmarks/results/calibration/` and is not computed again; trained base
networks and downloaded data lie in the cache folder. What must be installed is in `benchmarks/requirements.txt`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")
sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` is a package

import torch  # noqa: E402

from benchmarks import summary  # noqa: E402
from benchmarks.data.tabular import TABLES  # noqa: E402
from benchmarks.runs import PROPER, Json, run  # noqa: E402
from benchmarks.settings import SETTINGS, load  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "calibration"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if options.bases:
        for name in options.settings:
            for seed in options.seeds:
                load(name, seed)
                print(f"base of {name}, seed {seed}", flush=True)
        return
    found: dict[str, list[Json]] = {}
    for name in options.settings:
        runs = [_finished(name, seed, options) for seed in options.seeds]
        found[name] = [finished for finished in runs if finished is not None]
        if found[name] and not options.table:
            print("\n" + summary.policy_table(name, found[name]) + "\n", flush=True)
    print(report({name: runs for name, runs in found.items() if runs}, tables=options.table))


def report(found: dict[str, list[Json]], *, tables: bool) -> str:
    """All tables, or without `tables` only those that compare."""
    parts = [summary.policy_table(name, runs) for name, runs in found.items()] if tables else []
    parts += [summary.difference_table(found, kind) for kind in PROPER]
    return "\n\n".join([*parts, summary.goals(found), summary.METHOD])


def _finished(name: str, seed: int, options: argparse.Namespace) -> Json | None:
    """The run of a setting and seed: read, or computed and kept, or None where only tables are wanted."""
    path = RESULTS / f"{name}-{seed}.json"
    if path.exists() and not options.quick:
        kept: Json = json.loads(path.read_text())
        return kept
    if options.table:
        return None
    found = run(name, seed, minutes=options.minutes, quick=options.quick)
    if not options.quick:
        RESULTS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=_settings, default=list(SETTINGS), help="names with commas, or `tabular`")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="budget of a race; each setting has its own otherwise")
    parser.add_argument("--table", action="store_true", help="print the tables of what was computed, compute nothing")
    parser.add_argument("--bases", action="store_true", help="only train the base networks into the cache folder")
    parser.add_argument("--quick", action="store_true", help="little data, two epochs, half a minute, not kept")
    parser.add_argument("--threads", type=int, default=1)
    options: argparse.Namespace = parser.parse_args()
    return options


def _settings(text: str) -> list[str]:
    names = [name for part in text.split(",") for name in (TABLES if part == "tabular" else [part])]
    if unknown := [name for name in names if name not in SETTINGS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: tabular, {', '.join(SETTINGS)}")
    return names


if __name__ == "__main__":
    main()
