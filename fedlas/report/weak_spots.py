"""Weak spots: classes and slices in which the served model is shown to be miscalibrated or less accurate, in words."""

from __future__ import annotations

from fedlas.metrics import SliceRow, SliceTable
from fedlas.notice import shortened
from fedlas.report.document import ClassTable, NamedClassRow, WorstParts
from fedlas.report.wording import percent

#: More classes than these are only counted.
_NAMED = 8


def worst_parts(classes: ClassTable, slices: SliceTable | None, level: float) -> WorstParts:
    return WorstParts(worst_class(classes, level), worst_slice(slices, level))


def worst_class(section: ClassTable, level: float) -> str:
    """The class that is shown to be miscalibrated most where it is predicted."""
    row = next((row for row in section.rows if row.p_adjusted is not None), None)
    if row is None or row.p_adjusted is None or row.precision is None or row.gap is None:
        return "No class is predicted often enough to be tested."
    if row.p_adjusted > 1 - level:
        return "No class is shown to be miscalibrated where it is predicted."
    return (
        f"Worst class: predictions of “{shortened(row.name)}” have a mean confidence of {percent(row.mean_confidence)} "
        f"and a precision of {percent(row.precision.value)} ({row.num_predicted:,} rows): {direction(row.gap.value)}."
    )


def worst_slice(section: SliceTable | None, level: float) -> str | None:
    """The slice that is shown to be miscalibrated, or worse than the rest, most."""
    if section is None:
        return None
    if not section.rows:
        return "No column has slices that could be tested."
    row = section.rows[0]
    smallest = min((p for p in (row.p_miscalibrated, row.p_worse) if p is not None), default=None)
    if smallest is None:
        return "No slice has enough rows to be tested."
    if smallest > 1 - level:
        return f"Of {section.num_slices} slices none is shown to be miscalibrated or less accurate than the other rows."
    return (
        f"Worst slice: {shortened(row.column)} = “{shortened(row.value)}” ({row.num_rows:,} rows) has an accuracy of "
        f"{percent(row.accuracy.value)} and a mean confidence of {percent(row.mean_confidence)} "
        f"({failings(row, 1 - level)})."
    )


def failings(row: SliceRow, alpha: float) -> str:
    """What is shown of a slice, in words."""
    parts = []
    if row.p_miscalibrated is not None and row.p_miscalibrated <= alpha:
        parts.append(direction(row.gap.value))
    if row.p_worse is not None and row.p_worse <= alpha:
        parts.append("less accurate than the other rows")
    return ", ".join(parts)


def direction(gap: float) -> str:
    """The sign of mean confidence minus accuracy, in words."""
    return "overconfident" if gap > 0 else "underconfident"


def found_in_classes(section: ClassTable, level: float) -> str:
    """Which classes are shown to be miscalibrated, beside the table that has their figures."""
    shown = [row for row in section.rows if _is_shown(row, 1 - level)]
    if not shown:
        return worst_class(section, level)
    names = [f"“{shortened(row.name)}” ({direction(row.gap.value)})" for row in shown[:_NAMED] if row.gap is not None]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"Shown to be miscalibrated where they are predicted: {', '.join(names)}{more}."


def found_in_slices(section: SliceTable, level: float) -> str | None:
    """That no slice is shown to be weak; where one is, its row in the table says so."""
    shown = any(failings(row, 1 - level) for row in section.rows)
    return None if shown else worst_slice(section, level)


def _is_shown(row: NamedClassRow, alpha: float) -> bool:
    return row.p_adjusted is not None and row.p_adjusted <= alpha
