"""Label noise: how often the verdict stays the same where some test labels are replaced by wrong ones.

The simulation adds errors to those that the labels already have; it cannot tell the verdict on the true labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.sections import LabelNoise, NoiseLevel
from fedlas.metrics._checks import Ints

SHARES = (0.01, 0.05, 0.10)


def sensitivity(
    rejudge: Callable[[Ints], str],
    targets: ArrayLike,
    num_classes: int,
    *,
    shares: Sequence[float] = SHARES,
    draws: int = 20,
    seed: int = 0,
) -> LabelNoise:
    """Redraw a share of the labels to another class, evenly, and judge again, `draws` times per share.

    Args:
        rejudge: the verdict for class indices (N,) of the same test rows. It must not be entered in the evaluation
            ledger: only the verdict on the labels as they are counts.
        targets: class indices (N,) of the test rows.

    >>> sensitivity(lambda labels: "unchanged", [0, 1] * 50, 2, shares=[0.05]).sentences
    ('With up to 5 % wrong test labels the verdict stays the same.',)
    """
    labels = np.asarray(targets, np.int64)
    verdict = rejudge(labels.copy())
    rng = np.random.default_rng(seed)
    levels = []
    for share in shares:
        wrong = max(1, round(share * len(labels)))
        found = Counter(rejudge(_with_errors(labels, num_classes, wrong, rng)) for _ in range(draws))
        verdicts = {name: count / draws for name, count in sorted(found.items())}
        levels.append(NoiseLevel(share=float(share), rows=wrong, verdicts=verdicts, same=found[verdict]))
    return LabelNoise(verdict=verdict, draws=draws, levels=tuple(levels), sentences=_sentences(levels, draws))


def _sentences(levels: Sequence[NoiseLevel], draws: int) -> tuple[str, ...]:
    firm = [level.share for level in levels if level.same == draws]
    changed = [level for level in levels if level.same < draws]
    most = max((share for share in firm if all(share < level.share for level in changed)), default=None)
    return (
        *([f"With up to {100 * most:g} % wrong test labels the verdict stays the same."] if most else []),
        *(
            f"With {100 * level.share:g} % wrong test labels the verdict would be the same in {level.same} of {draws} "
            "draws."
            for level in changed
        ),
    )


def _with_errors(labels: Ints, num_classes: int, wrong: int, rng: np.random.Generator) -> Ints:
    changed = labels.copy()
    rows = rng.choice(len(labels), size=wrong, replace=False)
    # A step of 1..K−1 around the circle of classes reaches every other class with the same chance.
    changed[rows] = (changed[rows] + rng.integers(1, num_classes, size=wrong)) % num_classes
    return changed
