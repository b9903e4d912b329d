"""The evaluation of a job: test rows judge its finalists once, and its report is about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas.data import Dataset
from fedlas.gate.claims import GateVerdict
from fedlas.gate.gate import judge
from fedlas.guarantees import Guarantees
from fedlas.report import CalibrationReport, Evidence, build_report, reliability_svg, report_html
from fedlas.report.label_noise import LabelNoise, sensitivity

Json = dict[str, Any]
Floats = NDArray[np.float64]
Targets = NDArray[np.int64]

#: The interval of one guard is drawn so often when only the verdict is asked for.
_CHEAP_RESAMPLES = 20
#: Wrong labels are drawn so often at the least, and in all draws for so many rows at the most.
_FEWEST_DRAWS, _JUDGED_ROWS = 3, 200_000


@dataclass(frozen=True)
class Evaluation:
    """The test rows of a dataset, what the finalists answer on them, and how the gate is to judge.

    Attributes:
        probs: probabilities (N, K) by finalist: `uploaded`, `temperature`, `post_hoc`, and where they were named
            `same_labels` and `trained`.
        gate: the gate's options: `score`, `confidence_level`, `max_accuracy_drop`.
        evaluations_before: how often these test rows have judged before.
        noise_draws: how often labels are drawn for each share of wrong ones; less often where a judgement takes long.
        num_resamples: of every interval of the report.
    """

    dataset: Dataset
    probs: Mapping[str, Floats]
    gate: Mapping[str, Any]
    evaluations_before: int
    seed: int
    noise_draws: int = 20
    num_resamples: int = 1000

    @property
    def targets(self) -> Targets:
        return self.dataset.targets[self.dataset.rows("test")]

    def judge(self, targets: Targets | None = None, **options: Any) -> GateVerdict:
        """The verdict on the finalists, or the one that these rows would give with other `targets`."""
        return judge(
            uploaded=self.probs["uploaded"],
            post_hoc=self.probs["post_hoc"],
            trained=self.probs.get("trained"),
            same_labels=self.probs.get("same_labels"),
            targets=self.targets if targets is None else targets,
            groups=self.dataset.groups_of("test"),
            provenance=self.dataset.seen_by_model,
            seed=self.seed,
            evaluations_before=self.evaluations_before,
            class_names=self.dataset.class_names,
            **self.gate,
            **options,
        )

    def report(self, judgement: GateVerdict, calibrated: Floats, **evidence: Any) -> CalibrationReport:
        """The report with `calibrated` (N, K) as what is to be served; `evidence` is added to the `Evidence`."""
        rows = self.dataset.rows("test")
        whole = Evidence(
            gate=judgement,
            uploaded=self.probs["uploaded"],
            temperature=self.probs["temperature"],
            calibrated=calibrated,
            targets=self.targets,
            groups=self.dataset.groups_of("test"),
            class_names=self.dataset.class_names,
            slices={name: column[rows] for name, column in self.dataset.slices.items()},
            label_noise=self._label_noise() if self.dataset.seen_by_model != "unknown" else None,
            evaluations_before=self.evaluations_before,
            seen_by_model=self.dataset.seen_by_model,
            seed=self.seed,
            **evidence,
        )
        level = self.gate["confidence_level"]
        return build_report(whole, num_resamples=self.num_resamples, confidence_level=level)

    def _label_noise(self) -> LabelNoise:
        """How the verdict would change if some of the test labels were wrong."""
        return sensitivity(
            lambda targets: self.judge(targets, num_resamples=_CHEAP_RESAMPLES).verdict,
            self.targets,
            len(self.dataset.class_names),
            draws=max(_FEWEST_DRAWS, min(self.noise_draws, _JUDGED_ROWS // len(self.targets))),
            seed=self.seed,
        )


def fit_guarantees(dataset: Dataset, probs: Floats) -> Guarantees:
    """What the guarantee rows allow to promise of a served model with these probabilities (N, K) on them."""
    targets = dataset.targets[dataset.rows("guarantee")]
    return Guarantees.fit(probs, targets, class_names=dataset.class_names, groups=dataset.groups_of("guarantee"))


def write_report(report: CalibrationReport, folder: Path) -> dict[str, str]:
    """Leave the report, its page and its diagram in `folder`; returns the name of each."""
    names = {"report": "report.json", "page": "report.html", "diagram": "reliability.svg"}
    (folder / names["report"]).write_text(json.dumps(report.as_dict(), allow_nan=False))
    (folder / names["page"]).write_text(report_html(report))
    (folder / names["diagram"]).write_text(reliability_svg(report))
    return names
