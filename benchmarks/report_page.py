"""Times the page of a large report: 1,000 classes, 50 slices, written from evidence and from a stored document.

Run it with `python -m benchmarks.report_page [FOLDER]`; the folder gets `report.html` and `report.json`, and Chromium
shows the page.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from playwright.sync_api import sync_playwright

from fedlas.calibrators import softmax
from fedlas.gate.gate import judge
from fedlas.report import CalibrationReport, Evidence, Named, Subject, build_report, report_from_json, report_html

ROWS, CLASSES, SLICES, TURNS = 4_000, 1_000, 50, 5
_TIMES = """() => new Promise((resolve) => {
  const loaded = performance.getEntriesByType("navigation")[0].loadEventEnd;
  new PerformanceObserver((list) => resolve([list.getEntries()[0].startTime, loaded]))
    .observe({ type: "paint", buffered: true });
})"""


def main() -> None:
    report = large_report()
    document = json.dumps(report.as_dict())
    read = report_from_json(json.loads(document))
    page = report_html(read)
    print(f"report.json {len(document) / 1000:.0f} kB, report.html {len(page.encode()) / 1000:.0f} kB")
    print(f"read from JSON {seconds(lambda: report_from_json(json.loads(document))):.3f} s")
    print(f"page written {seconds(lambda: report_html(read)):.3f} s")
    with TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        (folder / "report.json").write_text(document)
        (folder / "report.html").write_text(page)
        print(shown(folder / "report.html"))


def large_report(num_classes: int = CLASSES, num_slices: int = SLICES, num_rows: int = ROWS) -> CalibrationReport:
    """A report of drawn scores: an overconfident model, calibrated, with as many classes and slices as asked for."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(num_rows, num_classes))
    calibrated = softmax(logits)
    targets = (calibrated.cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)
    uploaded, temperature = softmax(1.6 * logits), softmax(1.1 * logits)
    gate = judge(uploaded=uploaded, post_hoc=calibrated, trained=None, targets=targets, provenance="no")
    columns = {f"column {i}": rng.integers(10, size=num_rows) for i in range(-(-num_slices // 10))}
    evidence = Evidence(
        gate=gate,
        uploaded=uploaded,
        temperature=temperature,
        calibrated=calibrated,
        targets=targets,
        class_names=[f"class number {k}" for k in range(num_classes)],
        slices=columns,
        candidates=[
            {"name": f"candidate {i}", "status": "finished", "scope": "all", "calibration": {"nll": 2 + i / 50}}
            for i in range(20)
        ],
        subject=Subject(Named("large", "mdl_large"), Named("drawn", "ds_large"), "job_large", "2026-11-27T05:00:00Z"),
    )
    return build_report(evidence, num_resamples=100)


def seconds(run: Callable[[], object]) -> float:
    """The median of some turns."""
    took = []
    for _ in range(TURNS):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return median(took)


def shown(page: Path) -> str:
    """What a browser says of it: when it first painted, and when all of it was there."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        times = []
        for _ in range(TURNS):
            tab.goto(page.resolve().as_uri())
            times.append(tab.evaluate(_TIMES))
        browser.close()
    paint, load = (median(one) / 1000 for one in zip(*times, strict=True))
    return f"Chromium: first paint {paint:.3f} s, loaded {load:.3f} s"


if __name__ == "__main__":
    main()
