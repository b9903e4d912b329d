"""`python -m benchmarks.mistakes`: every mistake with every model it can be made with, and the right pairs."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.mistakes.answers import accuracy
from benchmarks.mistakes.bases import Base
from benchmarks.mistakes.dry_run import Json, Said, by_worker
from benchmarks.mistakes.of_images import IMAGES
from benchmarks.mistakes.of_labels import LABELS
from benchmarks.mistakes.of_rows import ROWS
from benchmarks.mistakes.of_tables import TABLES
from benchmarks.mistakes.of_texts import TEXTS
from benchmarks.mistakes.over_http import Api
from benchmarks.mistakes.pair import Case, Pair
from benchmarks.mistakes.right import base_models, right_pairs
from benchmarks.mistakes.verdicts import missed, short, summary, table, verdict

RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Run what is asked for; only whole runs are written to the results unless `--out` names a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mistakes", description=__doc__)
    parser.add_argument("--http", metavar="URL", help="through a running service instead of the worker's functions")
    parser.add_argument("--key", help="of that service")
    parser.add_argument(
        "--method", default="post_hoc", help="of the dry runs; `auto` also measures what training costs"
    )
    parser.add_argument("--only", help="cases whose name holds this: MISTAKE × MODEL, or `right × PAIR`")
    parser.add_argument("--out", type=Path, help="a file for the rows")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    through: Callable[[Pair, str], Said] = Api(asked.http, asked.key) if asked.http else by_worker
    run = partial(through, method=asked.method)
    bases = base_models()
    rows = [_row(case, run, bases) for case in _cases(bases, asked.only or "")]
    found = summary(rows)
    print(table(rows), *missed(rows), json.dumps(found, indent=1, ensure_ascii=False), sep="\n")
    out = asked.out or (None if asked.only else RESULTS / ("mistakes_http.json" if asked.http else "mistakes.json"))
    if out:
        kept = [row if asked.out else short(row) for row in rows]
        lines = ",\n ".join(json.dumps(row, ensure_ascii=False) for row in kept)
        out.write_text(f'{{"summary": {json.dumps(found, ensure_ascii=False)},\n"rows": [\n {lines}\n]}}\n')


def _cases(bases: list[Base], wanted: str) -> Iterator[Case]:
    for mistake in (*LABELS, *IMAGES, *TABLES, *TEXTS, *ROWS):
        yield from mistake.cases(bases, wanted)
    yield from right_pairs(bases, wanted)


def _name(case: Case) -> str:
    return f"{case.mistake or 'right'} × {case.title}"


def _row(case: Case, run: Callable[[Pair], Said], bases: list[Base]) -> Json:
    began = time.perf_counter()
    row = verdict(case, run(case.pair), _harm(case, bases))
    marks = "".join(
        letter if row.get(field) else "." for letter, field in (("f", "found"), ("n", "named"), ("r", "remedy"))
    )
    print(f"{marks} {_name(case)}: {row['codes']} {time.perf_counter() - began:.1f} s", flush=True)
    for words in short(row).get("said", ()):
        print("   ", words[:400], flush=True)
    return row


def _harm(case: Case, bases: list[Base]) -> float | None:
    """How much accuracy wrong inputs cost; None where the answers stay what they were."""
    right = next((base.pair for base in bases if base.name == case.title), None)
    if not case.mistake or right is None:
        return None
    same = case.pair.model == right.model and {*case.pair.inputs} == {*right.inputs}
    changed = case.pair.inputs is not right.inputs or case.pair.model_options != right.model_options
    changed = changed or case.pair.images is not right.images
    return accuracy(right) - accuracy(case.pair) if same and changed else None


if __name__ == "__main__":
    main()
