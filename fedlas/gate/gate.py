"""The gate: finalists that were named beforehand are judged once on test rows.

What is served and what is significant are two things. *Served* is the first finalist in line (`average`, `trained`,
`post_hoc`, `same_labels`) unless the test rows veto it (`fedlas.gate.guards`); it gives way to the next, in the end to
the uploaded model. A race names only finalists whose NLL out of fold is lower than that of everything simpler.
*Shown* is what the test rows prove: that a finalist beats the uploaded model, and of the average with the fine-tuned
network, or of that network where there is no average, also that it beats every simpler finalist (an intersection-union
test: the largest of its p-values counts). The claims are one-sided tests of the mean
paired difference of one proper score, of rows or of whole groups, by `fedlas.metrics.betting_intervals`, which says
why, and Holm's procedure keeps the chance of any false claim under the level of this evaluation. A test split that has
judged before has spent part of `1 - confidence_level`: all evaluations that there will ever be
spend the level once (alpha spending).

The gate's verdict: what is served, what test rows show of it, and what they say against the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.report import GateClaim, GateGuard, GateVerdict, ScoreDifference
from fedlas.errors import BadDataset
from fedlas.gate.guards import (
    GUARD_NAMES,
    RIVALS,
    JudgedRows,
    JudgementOptions,
    find_vetoes,
    guard_finalist,
    is_stopped,
    shown_worse,
)
from fedlas.metrics.betting_intervals import BoundedMean, paired_mean
from fedlas.metrics.evaluate import Score
from fedlas.metrics.per_class import holm
from fedlas.metrics.statistics import Floats, check_count, check_groups, check_rows

#: Where more rows than this would be needed, the report says "more than".
MAX_ROWS_NEEDED = 1_000_000
#: The line of finalists, each with the verdict that serves it; None, the uploaded model as it came, ends it.
VERDICTS: dict[str | None, str] = {
    "average": "trained",
    "trained": "trained",
    "post_hoc": "post_hoc",
    "same_labels": "post_hoc",
    None: "unchanged",
}
#: The finalists that rest on a fine-tuned network: one claim is made, for the first of them in line.
FINE_TUNED = ("average", "trained")


FINALIST_NAMES = {
    "uploaded": "the uploaded model",
    "same_labels": "a temperature",
    "post_hoc": "the post-hoc calibrator",
    "trained": "the fine-tuned model",
    "average": "the average with the fine-tuned model",
}
SCORE_NAMES = {"brier": "Brier score", "nll": "NLL"}

UNDETERMINED = (
    "Undetermined: it is unknown which rows the uploaded model was trained on, and rows it has seen can neither fit "
    "nor judge a calibrator. Upload the dataset again with seen_by_model=no if the model saw none of the rows, or with "
    "a split column that marks as train the rows it was trained on."
)


def sentences_of(verdict: GateVerdict, num_rows: int, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Sentences on the served model, every guard that failed or that chance excused, vetoes, and the ledger."""
    sentences = [_served(verdict, num_rows)]
    sentences += [text for guard in verdict.guards if (text := _guarded(guard, class_names))]
    sentences += [
        f"{_start(veto.finalist)} is not served: it is significantly worse than {FINALIST_NAMES[veto.against]} "
        f"({SCORE_NAMES[veto.score or 'nll']} {veto.value:+.4f})."
        for veto in verdict.vetoes
        if veto.against is not None
    ]
    if all(claim.finalist not in FINE_TUNED for claim in verdict.claims):
        sentences.append(
            "No fine-tuned model was judged: none was trained, or none was good enough on calibration rows."
        )
    if verdict.looks_before > 0:
        times = "once" if verdict.looks_before == 1 else f"{verdict.looks_before} times"
        sentences.append(
            f"These test rows have judged {times} before. Each evaluation uses up part of the allowed chance of a "
            "false claim, so this one needs clearer differences than the first. New test rows start afresh."
        )
    return tuple(sentences)


def without_files(verdict: GateVerdict, reasons: Mapping[str, str], num_rows: int) -> tuple[str, ...]:
    """The verdict's sentences where no file could be written of some finalists, so that another one is served."""
    return (
        _served(verdict, num_rows, written="A preferred model could not be written as a file. "),
        *(f"No file could be written of {FINALIST_NAMES[name]}: {why.rstrip('.')}." for name, why in reasons.items()),
        *verdict.sentences[1:],
    )


def _served(verdict: GateVerdict, num_rows: int, *, written: str = "") -> str:
    """The first sentence of a verdict: why something gave way, and what the test rows show of the served finalist."""
    if verdict.finalist is None:
        why = "could be written as a file" if written else "passed the checks on the test rows"
        return f"The uploaded model is served unchanged: no calibrated version of it {why}."
    line, stopped = [name for name in VERDICTS if name], {veto.finalist for veto in verdict.vetoes}
    rejected = [name for name in line[: line.index(verdict.finalist)] if name in stopped]
    failed = f"On the test rows {_all_of(rejected)} failed the checks. " if rejected else ""
    return f"{written or failed}{_shown(verdict, num_rows)}"


def _shown(verdict: GateVerdict, num_rows: int) -> str:
    """Sentences on what the served model beats significantly, and how many rows would show the rest."""
    score, start = SCORE_NAMES[verdict.score], f"The {num_rows:,} test rows"
    served = FINALIST_NAMES[verdict.finalist or "uploaded"]
    if not verdict.served_claims:
        return (
            f"{start} do not show {served} to be better ({score}): the one claim for fine-tuned models was made for "
            "the average, which was preferred to it."
        )
    first, *simpler = verdict.served_claims
    if all(one.low == one.high == 0 for one in first.comparisons):
        return "The uploaded model keeps its own probabilities: on the calibration rows no calibrator is better."
    return " ".join(
        [_claimed(first, f"{start} %s {served}", f" ({score})"), *(_claimed(x, "They %s it") for x in simpler)]
    )


def _claimed(claim: GateClaim, start: str, score: str = "") -> str:
    """The words of the test rows on one claim, after the `start`, in which the verb is missing."""
    open_ = [one.against for one in claim.comparisons if one.p_value > claim.level]
    if not open_:
        return f"{start % 'show'} to be better than {_all_of([one.against for one in claim.comparisons])}{score}."
    said = f"{start % 'do not show'} to be better than {_all_of(open_)}{score}"
    needed = claim.rows_needed
    if needed is None:
        worse = any(comparison.low > 0 for comparison in claim.comparisons)
        return f"{said}: they show it to be worse." if worse else f"{said}, nor to be worse."
    number = f"more than {MAX_ROWS_NEEDED:,}" if needed > MAX_ROWS_NEEDED else f"about {needed:,}"
    return f"{said}; if it is truly better by as much as they say, {number} test rows would show it with 80 % power."


def _all_of(finalists: Sequence[str]) -> str:
    *others, last = [FINALIST_NAMES[name] for name in finalists] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _guarded(guard: GateGuard, class_names: Sequence[str] | None) -> str:
    """Sentence on a guard that stopped a finalist, or let it pass beyond the limit by chance; else empty."""
    excused = guard.passed and guard.chance is not None and guard.value > guard.limit
    if guard.passed and not excused:
        return ""
    name = guard.class_index if class_names is None else f"“{class_names[guard.class_index or 0]}”"
    which = "" if guard.class_index is None else f" (class {name})"
    if guard.name == "rare_classes_recall_drop" and guard.chance is None:
        who = _start(guard.finalist)
        return f"{who} is not served: it no longer finds a single row of a class that was found before{which}."
    statement, is_factor, _ = GUARD_NAMES[guard.name].partition(" (as a factor)")
    beyond = f" by more than {'a factor of ' if is_factor else 'the allowed '}{guard.limit:g}" if guard.limit else ""
    who, found = _start(guard.finalist), f"{statement}{which}{beyond}"
    return f"{who} {found}, but chance explains it." if excused else f"{who} is not served: it {found}."


def _start(finalist: str) -> str:
    return FINALIST_NAMES[finalist].capitalize()


#: The share of the level that the first evaluation of a test split may spend; all later ones share the rest.
FIRST_SHARE = 0.75


def ledger_level(evaluations_before: int, level: float) -> float:
    """Level that evaluation k = evaluations_before + 1 of one test split may spend, so that all together spend `level`.

    Three quarters for the first, `level / (4·k·(k − 1))` for each later one, whose sum is the last quarter. Most
    splits are evaluated once, and the first evaluation then needs 11 % more rows than without a ledger (19 % if it
    spent 6/π², the first share of the usual 1/k²); the second needs 1.8 times and the fifth 2.7 times as many.

    Raises:
        ValueError: evaluations_before is no integer of at least 0.

    >>> [round(ledger_level(k, 0.05), 5) for k in range(4)]
    [0.0375, 0.00625, 0.00208, 0.00104]
    """
    whole = isinstance(evaluations_before, int | np.integer) and not isinstance(evaluations_before, bool)
    if not whole or evaluations_before < 0:
        raise ValueError(f"evaluations_before must be an integer of at least 0, got {evaluations_before!r}")
    k = int(evaluations_before) + 1
    return level * (FIRST_SHARE if k == 1 else (1 - FIRST_SHARE) / (k * (k - 1)))


MIN_TEST_ROWS = 10


def judge(
    probs: Mapping[str, ArrayLike | None],
    targets: ArrayLike,
    options: JudgementOptions | None = None,
    *,
    groups: ArrayLike | None = None,
    provenance: str,
    evaluations_before: int = 0,
    class_names: Sequence[str] | None = None,
) -> GateVerdict:
    """Judge the finalists on the test rows, targets (N,), once.

    Args:
        probs: probabilities (N, K) by name. `uploaded` and `post_hoc` are always there. `same_labels` is the uploaded
            model with a calibrator that keeps every label, where `post_hoc` does not; `trained` the fine-tuned network;
            `average` the pool of networks with that one among them. One claim is made for the last two, for the pool
            where there is one, so that it takes no level from the others.
        groups: labels (N,) of groups of rows, which are resampled and counted as wholes.
        provenance: which rows the model has seen: `no`, `train_split`, or `unknown`, which makes all `undetermined`.
        evaluations_before: how often these test rows have judged before.
        class_names: for the sentences; else classes are numbers.

    Raises:
        BadDataset: `split_too_small` with fewer than ten test rows.
        ValueError: shapes or options do not fit, probabilities are NaN or do not sum to 1; the argument is named.
    """
    if provenance not in ("no", "train_split", "unknown"):
        raise ValueError(f"provenance must be 'no', 'train_split' or 'unknown', got {provenance!r}")
    options = options or JudgementOptions()
    num_rows, score = len(np.asarray(targets)), options.gate.score
    if num_rows < MIN_TEST_ROWS:
        raise BadDataset(
            "split_too_small", f"the split 'test' has {num_rows} rows, at least {MIN_TEST_ROWS} are needed"
        )
    level = ledger_level(evaluations_before, options.level)
    if provenance == "unknown":
        return GateVerdict(
            verdict="undetermined",
            score=score,
            claims=(),
            guards=(),
            sentences=(UNDETERMINED,),
            looks_before=evaluations_before,
        )
    finalists, rows = checked_finalists({name: probs.get(name) for name in ("uploaded", *RIVALS)}, targets, groups)
    check_count("num_resamples", options.num_resamples)
    guards = tuple(guard for name in list(finalists)[1:] for guard in guard_finalist(name, finalists, rows, options))
    line = _line(finalists)
    # Only the first fine-tuned finalist in line has a claim.
    tuned = next((name for name in FINE_TUNED if name in finalists), None)
    claimed = [name for name in finalists if name in RIVALS and (name not in FINE_TUNED or name == tuned)]
    claims = claims_on(claimed, finalists, rows, score, level)
    vetoes = find_vetoes(line, finalists, rows, guards, level=options.level / 2)
    served = tuple(name for name in line if all(veto.finalist != name for veto in vetoes))
    finalist = served[0] if served else None
    verdict = GateVerdict(
        verdict=VERDICTS[finalist],
        score=score,
        claims=claims,
        guards=guards,
        sentences=(),
        looks_before=evaluations_before,
        level=level,
        order=served,
        vetoes=vetoes,
        finalist=finalist,
    )
    return verdict.changed(sentences=sentences_of(verdict, num_rows, class_names))


def verdict_alone(probs: Mapping[str, Floats], rows: JudgedRows, options: JudgementOptions) -> str:
    """The verdict that `judge` gives on checked finalists, without what is claimed and without any interval.

    Only the first finalists in line are looked at, up to the one that is served: an eighth of the time.
    """
    line = _line(probs)
    served = (
        name
        for name in line
        if shown_worse(name, line, probs, rows, level=options.level / 2) is None
        and not is_stopped(name, probs, rows, options)
    )
    return VERDICTS[next(served, None)]


def _line(probs: Mapping[str, Floats]) -> tuple[str, ...]:
    return tuple(name for name in VERDICTS if name is not None and name in probs)


def checked_finalists(
    given: Mapping[str, ArrayLike | None], targets: ArrayLike, groups: ArrayLike | None
) -> tuple[dict[str, Floats], JudgedRows]:
    """Probabilities by name, the uploaded model's first, and the rows that judge them; the errors are `judge`'s."""
    probs: dict[str, Floats] = {}
    labels = np.empty(0, dtype=np.int64)
    for name, values in given.items():
        if values is None:
            continue
        try:
            probs[name], labels = check_rows(values, targets)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if probs[name].shape != probs["uploaded"].shape:
            raise ValueError(f"{name} must be {probs['uploaded'].shape}, as uploaded, got {probs[name].shape}")
    return probs, JudgedRows(labels, check_groups(groups, len(labels)))


def claims_on(
    claimed: Sequence[str], probs: Mapping[str, Floats], rows: JudgedRows, score: Score, level: float
) -> tuple[GateClaim, ...]:
    """Claims on the finalists, each against the uploaded model; on a fine-tuned one also against the simpler ones.

    Holm's procedure runs twice, at the whole level each, and the chance of any false claim stays below it. The first
    run has the fine-tuned finalist against everything and decides all claims but one: that this finalist beats the
    uploaded model, which the second run decides. If that one is false, so is the wider one, and every false claim is
    made by the second run, whose p-values are no larger. If it is true, only the first run can err.
    """
    means = {
        finalist: {
            rival: paired_mean(probs[finalist], probs[rival], rows.targets, score=score, groups=rows.groups)
            for rival in RIVALS[finalist]
            if rival in probs
        }
        for finalist in claimed
    }
    every = {finalist: max(mean.p_value() for mean in rivals.values()) for finalist, rivals in means.items()}
    alone = {finalist: rivals["uploaded"].p_value() for finalist, rivals in means.items()}
    widest, first = (holm(list(p_values.values()), level) for p_values in (every, alone))
    claims: list[GateClaim] = []
    for i, (finalist, rivals) in enumerate(means.items()):
        simpler = {name: mean for name, mean in rivals.items() if name != "uploaded"}
        levels, shown = first if simpler else widest
        claims.append(_claim(finalist, {"uploaded": rivals["uploaded"]}, alone[finalist], levels[i], shown[i]))
        if simpler:
            claims.append(_claim(finalist, simpler, every[finalist], widest[0][i], widest[1][i]))
    return tuple(claims)


def _claim(finalist: str, rivals: Mapping[str, BoundedMean], p_value: float, level: float, shown: bool) -> GateClaim:
    return GateClaim(
        finalist=finalist,
        significant=shown,
        p_value=p_value,
        level=level,
        comparisons=tuple(
            ScoreDifference(against=rival, **vars(mean.estimate(level)), p_value=mean.p_value())
            for rival, mean in rivals.items()
        ),
        rows_needed=None if shown else _rows_needed(rivals.values(), level),
    )


def _rows_needed(means: Iterable[BoundedMean], level: float) -> int | None:
    rows = max(mean.rows_needed(level) for mean in means)
    return None if rows == float("inf") else min(ceil(rows), MAX_ROWS_NEEDED + 1)
