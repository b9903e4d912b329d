"""Weak spots: classes and slices in which the served model is too sure, too cautious or less accurate, in words."""

from __future__ import annotations

from fedlas.metrics import SliceRow, SliceTable
from fedlas.notice import shortened
from fedlas.report.document import ClassTable, WorstParts
from fedlas.report.wording import direction, percent

#: More classes than these are only counted.
_NAMED = 8


def worst_parts(classes: ClassTable, slices: SliceTable | None, level: float) -> WorstParts:
    return WorstParts(worst_class(classes, level), worst_slice(slices, level))


def worst_class(section: ClassTable, level: float) -> str:
    """The class whose mean confidence and precision differ most where it is predicted, beyond chance."""
    row = next((row for row in section.rows if row.p_adjusted is not None), None)
    if row is None or row.p_adjusted is None or row.precision is None or row.gap is None:
        return "No class is predicted often enough to be tested."
    if row.p_adjusted > 1 - level:
        return "For no class do mean confidence and precision differ by more than chance explains."
    return (
        f"Worst class: predictions of “{shortened(row.name)}” have a mean confidence of {percent(row.mean_confidence)} "
        f"and a precision of {percent(row.precision.value)} ({row.num_predicted:,} rows): {direction(row.gap.value)}."
    )


def worst_slice(section: SliceTable | None, level: float) -> str | None:
    """The slice that is most too sure or too cautious, or worse than the rest, beyond chance."""
    if section is None:
        return None
    if not section.rows:
        return "No column has slices that could be tested."
    row = section.rows[0]
    smallest = min((p for p in (row.p_miscalibrated, row.p_worse) if p is not None), default=None)
    if smallest is None:
        return "No slice has enough rows to be tested."
    if smallest > 1 - level:
        return (
            f"Of {section.num_slices} slices none says more or less than is right, or is less accurate than the other "
            "rows, by more than chance explains."
        )
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


def found_in_classes(section: ClassTable, level: float) -> str:
    """Which classes are too sure or too cautious, beside the table that has their figures."""
    shown = [row for row in section.rows if row.p_adjusted is not None and row.p_adjusted <= 1 - level]
    if not shown:
        return worst_class(section, level)
    names = [f"“{shortened(row.name)}” ({direction(row.gap.value)})" for row in shown[:_NAMED] if row.gap is not None]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"Mean confidence and precision differ by more than chance explains for {', '.join(names)}{more}."


def found_in_slices(section: SliceTable, level: float) -> str | None:
    """That no slice is shown to be weak; where one is, its row in the table says so."""
    return None if any(failings(row, 1 - level) for row in section.rows) else worst_slice(section, level)
