"""The pictures of README and docs: a service calibrates the demo's digits in front of Chromium.

python -m tests.web.screenshots                  # docs/images/live-race.png and docs/images/report.png
python -m tests.web.screenshots --all FOLDER     # and every page, at three widths, light and dark, to be looked at
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.helpers.browser import WIDTHS, Window, headless
from tests.helpers.programs import chromium
from tests.helpers.service import ROOT, Json, Service, serving

IMAGES = ROOT / "docs" / "images"
#: The most that a committed picture may have.
_MAX_BYTES = 150_000
_COLOURS = 128
_RACE_MS = 600_000
_ORDER = {"budget": {"minutes": 10, "candidates": 6}, "hyperparameters": {}, "publish_as": "digits"}


def main() -> None:
    """Make the pictures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--all", type=Path, metavar="FOLDER", help="where pictures of all pages go")
    folder = options.parse_args().all
    executable = chromium()
    if executable is None:
        raise SystemExit("no Chromium was found: install Debian's `chromium`, or name a browser in FEDLAS_CHROMIUM")
    with tempfile.TemporaryDirectory(prefix="fedlas-screenshots-") as name, serving(Path(name) / "data") as service:
        job = _demo_job(service, Path(name))
        with headless(executable) as browser:
            window = Window(browser, str(service.client.base_url).rstrip("/"), viewport={"width": 1200, "height": 1000})
            _pictures(service, window.page, job)
            if folder is not None:
                window.expect(404)
                _all_pages(window.page, folder, dict(_pages(service, job)))
            window.close()


def _demo_job(service: Service, folder: Path) -> Json:
    """Order what `fedlas demo` orders."""
    subprocess.run([sys.executable, "-m", "worker.demo_model", str(folder)], check=True)
    uploads = (("models", "digits.onnx"), ("datasets", "digits.npz"))
    model, dataset = (service.inspected(kind, (folder / file).read_bytes(), name="digits") for kind, file in uploads)
    return service.order(model, dataset, **_ORDER)


def _pictures(service: Service, page: Page, job: Json) -> None:
    """The race while it runs, and the report when it is over."""
    page.goto(f"/jobs/{job['id']}")
    ranking = page.get_by_role("region", name="Ranking of the candidates")
    ranking.get_by_role("row").nth(4).wait_for(timeout=_RACE_MS)
    page.get_by_role("heading", name="Candidates").evaluate("one => one.scrollIntoView()")
    _keep(page, IMAGES / "live-race.png")
    assert service.ended(job["id"], seconds=900)["status"] == "succeeded"
    gap = service.get(f"/v1/jobs/{job['id']}/report")["confidence_gap"]["calibrated"]["test"]
    assert abs(gap["gap"]) <= 2 * gap["standard_error"], f"a picture of a model that does not hold what it says: {gap}"
    page.set_viewport_size({"width": 1200, "height": 1500})
    page.goto(f"/jobs/{job['id']}/report")
    _keep(page, IMAGES / "report.png")


def _keep(page: Page, path: Path) -> None:
    """A picture of the window with so few colours that it is small."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size <= _MAX_BYTES, f"{path} has {path.stat().st_size:,} bytes"


def _pages(service: Service, job: Json) -> Iterator[tuple[str, str]]:
    """Every page, by the name of its pictures."""
    yield from {"start": "/", "jobs": "/jobs", "models": "/models", "names": "/names", "datasets": "/datasets"}.items()
    yield from {"batches": "/batches", "calibrators": "/calibrators", "settings": "/settings"}.items()
    model, dataset, served = job["model_id"], job["dataset_id"], service.job(job["id"])["calibrated_model_id"]
    yield "new", f"/new?model={model}&dataset={dataset}"
    yield "job", f"/jobs/{job['id']}"
    yield "report", f"/jobs/{job['id']}/report"
    yield "model", f"/models/{served}"
    yield "try", f"/models/{served}/try"
    yield "name", "/names/digits"
    yield "dataset", f"/datasets/{dataset}"
    yield "operations", "/operations"
    yield "sign-in", "/sign-in"
    yield "unknown", "/jobs/job_unknown"


def _all_pages(page: Page, folder: Path, pages: dict[str, str]) -> None:
    """Whole pages, at each width and in both colour schemes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in pages.items():
        page.goto(path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)


if __name__ == "__main__":
    main()
