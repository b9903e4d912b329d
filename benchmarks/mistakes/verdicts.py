"""Whether what a dry run says names the mistake: from cases and what was said to tables."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable

from benchmarks.mistakes.dry_run import CRASH, Json, Said
from benchmarks.mistakes.pair import Case, Pair

#: Sentences about what limits a job; they say nothing about model and dataset not belonging together.
HINTS = ("budget", "dataset", "class_not_met")
KINDS = ("CNN", "text", "MLP", "forest", "logistic", "pretrained")


def verdict(case: Case, said: Said, harm: float | None) -> Json:
    """A row of the results.

    `found`: anything is said that is no hint; `named`: by a code of this mistake; `remedy`: with the way out in its
    words. `false` are the codes of a right pair.
    """
    codes = [notice["code"] for notice in said.warnings]
    error = [] if said.error is None else [said.error["code"]]
    counted = [code for code in (*codes, *error) if code not in HINTS or code in case.codes]
    notices = [*said.warnings, *([] if said.error is None else [said.error])]
    named = [notice for notice in notices if notice["code"] in case.codes]
    undone = bool(case.told) and any(re.search(case.told, _text(notice)) for notice in said.adjustments)
    row: Json = {
        "mistake": case.mistake,
        "model": case.model,
        "title": case.title,
        "codes": counted,
        "fails_with": error[0] if error else said.fails_with,
        "seconds": round(said.seconds, 2),
        "checks": None if said.checks is None else round(said.checks, 2),
        "accuracy": None if said.accuracy is None else round(said.accuracy, 3),
    }
    if case.mistake:
        row |= {
            "found": bool({*counted} - {CRASH}) or undone,
            "named": bool(named) or undone,
            "remedy": undone or any(_tells_remedy(case, notice) for notice in named),
            "harm": None if harm is None else round(harm, 3),
        }
    else:
        row |= {"hints": [code for code in codes if code in HINTS]}
    return row | {"said": [_text(notice)[:1200] for notice in notices if notice["code"] not in HINTS]}


def _tells_remedy(case: Case, notice: Json) -> bool:
    mapping = (notice.get("evidence") or {}).get("mapping")
    if mapping:
        return _is_true(case.pair, mapping)
    return re.search(case.remedy, _words(notice), re.IGNORECASE) is not None


def _is_true(pair: Pair, mapping: dict[str, str]) -> bool:
    """Whether what a label is said to mean is right, for nine of ten classes that are mentioned."""
    count = len(pair.names)
    shown = pair.model_names or (sorted(pair.names) if pair.label.dtype.kind == "U" else [str(i) for i in range(count)])
    truth = {str(label): shown[target] for label, target in zip(pair.label.tolist(), pair.targets, strict=True)}
    return sum(truth.get(label) == name for label, name in mapping.items()) >= 0.9 * len(mapping)


def _words(notice: Json) -> str:
    return f"{notice['message']} {json.dumps(notice.get('evidence') or {}, ensure_ascii=False)}"


def _text(notice: Json) -> str:
    return f"{notice['code']}: {_words(notice)}"


def table(rows: list[Json]) -> str:
    """Mistakes down, kinds of models across: named of all, and how many were found by any code."""
    cells: dict[str, dict[str, list[Json]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["mistake"]:
            cells[row["mistake"]][row["model"]].append(row)
    lines = ["| mistake | " + " | ".join(KINDS) + " | codes |", "|---" * (len(KINDS) + 2) + "|"]
    for mistake, by_kind in cells.items():
        codes = sorted({code for found in by_kind.values() for row in found for code in row["codes"]})
        lines.append(
            f"| {mistake} | " + " | ".join(_cell(by_kind.get(kind, [])) for kind in KINDS) + f" | {', '.join(codes)} |"
        )
    return "\n".join(lines)


def _cell(rows: list[Json]) -> str:
    if not rows:
        return ""
    named, found = (sum(row[field] for row in rows) for field in ("named", "found"))
    return f"{named}/{len(rows)}" + ("" if found == named else f" ({found} found)")


def short(row: Json) -> Json:
    """What was said word by word only where it is wrong."""
    right = row["remedy"] if row["mistake"] else not row["codes"]
    return {key: value for key, value in row.items() if key != "said" or not right}


def summary(rows: list[Json]) -> Json:
    """The figures of the goal."""
    wrong = [row for row in rows if row["mistake"]]
    right = [row for row in rows if not row["mistake"]]
    checks = sorted(row["checks"] for row in rows if row["checks"] is not None)
    return {
        "mistakes": len(wrong),
        **{field: sum(row[field] for row in wrong) for field in ("found", "named", "remedy")},
        "right_pairs": len(right),
        "false_warnings": sum(bool(row["codes"]) for row in right),
        "false": [f"{row['title']}: {', '.join(row['codes'])}" for row in right if row["codes"]],
        "checks_seconds": {"median": checks[len(checks) // 2], "most": checks[-1]} if checks else {},
    }


def missed(rows: Iterable[Json]) -> list[str]:
    """One line for each mistake that is not named."""
    return [
        f"{row['mistake']} × {row['title']}: {', '.join(row['codes']) or 'nothing'} (harm {row['harm']})"
        for row in rows
        if row["mistake"] and not row["named"]
    ]
