"""Reports of small evaluations, and the checks of a whole page."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np

from fedlas.calibrators import softmax
from fedlas.contract.report import GateVerdict, Report
from fedlas.gate.gate import judge
from fedlas.report import Evidence, build_report, report_html, risk_coverage_svg
from tests.helpers.drawn_rows import drawn_logits

UNCHANGED = GateVerdict(
    verdict="unchanged", score="brier", claims=(), guards=(), sentences=("The uploaded model stays as it is.",)
)


SERVED = {"verdict": "post_hoc", "finalist": "post_hoc", "order": ("post_hoc",)}
CALIBRATOR = UNCHANGED.changed(**SERVED, sentences=("It is served.",))


def candidate(name: str, nll: float | None, **changes: Any) -> dict[str, Any]:
    """A candidate of the race, as its result says; without an NLL it was not scored."""
    plain = {"method": "post_hoc", "scope": "none", "status": "finished", "reason": "", "hyperparameters": {}}
    calibration = None if nll is None else {"nll": nll}
    return {"name": name, **plain, "calibration": calibration, "calibrator": None, **changes}


@cache
def example() -> tuple[Report, np.ndarray, np.ndarray, np.ndarray]:
    logits, targets = drawn_logits(400)
    uploaded, calibrated = softmax(3 * logits), softmax(logits)
    judgement = judge({"uploaded": uploaded, "post_hoc": calibrated}, targets, provenance="no")
    evidence = Evidence(
        gate=judgement,
        uploaded=uploaded,
        temperature=calibrated,
        calibrated=calibrated,
        targets=targets,
        candidates=[candidate("uploaded + temperature", float("nan"))],
        recipe={"method": "auto"},
        seed=7,
        digests={"model": "sha256:ab"},
        notes=["A note."],
    )
    return build_report(evidence, num_resamples=200), uploaded, calibrated, targets


def content() -> dict[str, Any]:
    return example()[0].as_dict()


def report(probs: np.ndarray, targets: np.ndarray, *, num_resamples: int = 60, **changes: Any) -> Report:
    settings: dict[str, Any] = {
        "gate": UNCHANGED,
        "uploaded": probs,
        "temperature": probs,
        "calibrated": probs,
        "targets": targets,
        **changes,
    }
    return build_report(Evidence(**settings), num_resamples=num_resamples)


def is_whole(made: Report) -> str:
    """Strict JSON, a page that closes every element, pictures that are XML; the page."""
    json.dumps(made.as_dict(), allow_nan=False)
    page = report_html(made)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    ET.fromstring(risk_coverage_svg(made))
    written = page.replace(page[page.index("<style>") : page.index("</style>")], "")
    assert not {"nan", "inf", "None", "NaN"} & set(written.replace(">", " ").replace("<", " ").split())
    return page


class Tags(HTMLParser):
    """The elements and attributes that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: dict[str, set[str | None]] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
