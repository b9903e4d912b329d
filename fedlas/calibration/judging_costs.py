"""The costs of what follows the race: judging, writing and reporting, from small measurements on calibration rows.

They are what the budget keeps back from the trainings, and what a dry run and the time left are reckoned with. No test
row is looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedlas.calibration.evaluation import noise_judgements
from fedlas.calibration.preparation import Start
from fedlas.calibrators import softmax
from fedlas.errors import FedLASError
from fedlas.gate.gate import checked_finalists, judge, verdict_alone
from fedlas.gate.guards import GateOptions
from fedlas.report import Evidence, build_report

_LOG = logging.getLogger("fedlas.calibration")
#: Rows on which a judgement and a report are measured, at the least and at the most, their probabilities in all, and
#: how often a report's intervals are drawn then.
_LEAST_ROWS, _MOST_ROWS, _MOST_PROBS, _FEW_DRAWS, _MORE_DRAWS = 50, 500, 200_000, 10, 60
#: The interval of one guard is drawn so often where a judgement is measured.
_JUDGED_DRAWS = 20
#: Seconds of a judgement, of those under wrong labels, and of a report, where they cannot be measured.
_UNMEASURED = (1.0, 3.0, 5.0)
#: Estimates are stretched by this: small arrays stay in caches.
_CAUTION = 1.2
#: Networks that see the test rows beside the uploaded one, where anything is trained: the refit, as itself and in the
#: average.
_JUDGED_NETWORKS = 2
#: Rows that prove the written file, by PyTorch and ONNX Runtime, for each of its networks.
_PROVEN_ROWS = 512
#: Seconds of a file's graph, of how familiar rows look (per row and squared feature), of the serving cost at most, of
#: the page, and of handing everything to the registry.
_GRAPH_S, _FAMILIAR_S, _SERVING_S, _PAGE_S, PUBLISHING_S = 0.5, 4e-9, 2.5, 0.5, 1.5


@dataclass(frozen=True)
class JudgingCosts:
    """Seconds of each step after the race."""

    judging: float = 0.0
    writing: float = 0.0
    reporting: float = 0.0
    exporting: float = 0.0
    publishing: float = PUBLISHING_S

    @property
    def seconds(self) -> float:
        return float(sum(vars(self).values()))


def judging_costs(start: Start) -> JudgingCosts:
    """What follows the race of these rows."""
    networks = _JUDGED_NETWORKS if start.trains else 0
    test, guarantee = (len(start.dataset.rows(split)) for split in ("test", "guarantee"))
    row, features = start.outputs.seconds_per_row, start.outputs.features
    try:
        once, noise, report = _measured(start, test)
    except (FedLASError, ValueError) as error:  # what these few rows do not allow the test rows may
        _LOG.warning("what follows the race could not be measured: %s", error)
        once, noise, report = _UNMEASURED
    passes = (1 + networks) * test * row
    return JudgingCosts(
        judging=_CAUTION * (passes + once),
        writing=_GRAPH_S + networks * _PROVEN_ROWS * row + _FAMILIAR_S * len(features) * features.shape[1] ** 2,
        reporting=_CAUTION * (max(1, networks) * guarantee * row + noise + report),
        exporting=min(_SERVING_S, _PROVEN_ROWS * row) + _PAGE_S,
    )


def _measured(start: Start, rows: int) -> tuple[float, float, float]:
    """Seconds of the judgement of so many rows, of those under wrong labels, and of the report."""
    few = _few_rows(start)
    larger, options = rows / len(few), start.options
    logits = start.outputs.logits[few].astype(np.float64)
    targets, groups = start.targets[few], start.dataset.groups_of("calibration")
    groups = None if groups is None or len(np.unique(np.asarray(groups)[few])) < 2 else np.asarray(groups)[few]
    probs = [softmax(logits / t) for t in (1.0, 1.5, 2.0, 3.0, 4.0)]

    names = ("uploaded", "post_hoc", "trained", "average") if start.trains else ("uploaded", "post_hoc")
    finalists, judged_rows = checked_finalists(dict(zip(names, probs[:1] + probs[2:], strict=False)), targets, groups)

    def judged(resamples: int) -> float:
        return _seconds(
            lambda: judge(
                uploaded=probs[0],
                post_hoc=probs[2],
                trained=finalists.get("trained"),
                average=finalists.get("average"),
                targets=targets,
                groups=groups,
                provenance=start.dataset.seen_by_model,
                score=options.score,
                num_resamples=resamples,
            )
        )

    def reported(resamples: int) -> float:
        gate = judge(
            uploaded=probs[0], post_hoc=probs[2], trained=None, targets=targets, groups=groups, provenance="unknown"
        )
        slices = {name: column[start.dataset.rows("calibration")[few]] for name, column in start.dataset.slices.items()}
        evidence = Evidence(
            gate=gate,
            uploaded=probs[0],
            temperature=probs[1],
            calibrated=probs[2],
            targets=targets,
            groups=groups,
            class_names=start.dataset.class_names,
            positive_class=options.positive_class,
            slices=slices,
        )
        return _seconds(lambda: build_report(evidence, num_resamples=resamples))

    judged(_JUDGED_DRAWS)  # warms up
    cheap, dearer = judged(_JUDGED_DRAWS), judged(5 * _JUDGED_DRAWS)
    once = larger * (cheap + 1000 / (4 * _JUDGED_DRAWS) * max(0.0, dearer - cheap))
    alone = _seconds(lambda: verdict_alone(finalists, judged_rows, GateOptions(options.score)))
    # Half of it takes as long for any number of rows.
    noise = noise_judgements(rows, options) * (1 + larger) / 2 * alone if start.judged else 0.0
    few_draws, more = reported(_FEW_DRAWS), reported(_MORE_DRAWS)
    draw = max(0.0, more - few_draws) / (_MORE_DRAWS - _FEW_DRAWS)
    return once, noise, larger * (few_draws + (options.num_resamples - _FEW_DRAWS) * draw)


def _few_rows(start: Start) -> np.ndarray:
    """Calibration rows, drawn by the seed."""
    drawn = np.random.default_rng(start.options.seed).permutation(len(start.targets))
    most = _MOST_PROBS // start.outputs.logits.shape[1]
    return np.sort(drawn[: max(_LEAST_ROWS, min(_MOST_ROWS, most))])


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
