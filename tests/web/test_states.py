"""Pages in every state of their records, at a service without a worker: nothing changes but by these tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from service.registry import tables
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers import backends
from tests.helpers.browser import accessible, good_to_look_at, weighed
from tests.helpers.live_api import Json, live
from tests.helpers.publishing import PROFILE
from tests.web.conftest import Windows

pytestmark = pytest.mark.slow

#: The first page with all its files, over the wire.
FIRST_PAGE_BYTES = 30_000
LISTS = ("/jobs", "/models", "/names", "/datasets", "/batches", "/calibrators", "/operations")
SECTIONS = ("/", *LISTS, "/settings", "/calibrators/new")
#: Lists that scroll sideways, and names of cells that are not shown, as (label of the list, fault).
_NOT_CARDS = """[...document.querySelectorAll('.scroll:has(.list)')].flatMap(place => [
  ...(place.scrollWidth > place.clientWidth ? [[place.ariaLabel, 'scrolls']] : []),
  ...[...place.querySelectorAll('[data-label]')].filter(cell => getComputedStyle(cell, '::before').content === 'none')
    .map(cell => [place.ariaLabel, cell.dataset.label]),
])"""
#: A name that somebody may choose: a script, the end of an attribute, a template's expression, letters from the right.
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}} שלום"
LONG = "m" * 200
#: Class names have no bound; the second turns around what follows it.
CLASSES = [HOSTILE, "\u202eright to left", "x" * 10_000]
DATASET: Json = {
    "format": "csv",
    "num_samples": 700,
    "num_classes": 3,
    "class_names": CLASSES,
    "class_counts": dict.fromkeys(CLASSES, 200),
    "inputs": [{"name": HOSTILE, "dtype": "float64", "shape": ["N", 2]}],
    "roles": {"label": HOSTILE, "slices": [HOSTILE]},
    "seen_by_model": "no",
    "splits": {"train": 0, "calibration": 300, "guarantee": 0, "test": 400},
    "warnings": [f"{HOSTILE} is a column of one value"],
}
PLACE: Json = {"candidate": HOSTILE, "number": 1, "fold": 1, "folds": 3}
TRAINING: Json = {**PLACE, "method": "fedlas", "scope": "all", "candidates": 4, "epochs": 10}
EPOCH: Json = {**PLACE, "epoch": 1, "epochs": 10, "loss": 0.7, "learning_rate": 0.1, "seconds": 1.2}
SCORE: Json = {**PLACE, "nll": 0.6}
MODEL: Json = {
    **PROFILE,
    "inputs": [{"name": HOSTILE, "dtype": "float32", "shape": ["N", 2]}],
    "num_classes": 3,
    "class_names": CLASSES,
}


@dataclass(frozen=True)
class QuietService:
    """An API without a worker, and its registry."""

    url: str
    client: httpx.Client
    registry: Registry

    def upload(self, kind: str, name: str, **more: Any) -> str:
        """A record that is being inspected; its id."""
        answer = self.client.post(f"/v1/{kind}", content=name.encode(), params={"name": name, **more})
        assert answer.status_code in (201, 202), answer.text
        return str(answer.json()["id"])

    def order(self, model: str, dataset: str, **options: Any) -> str:
        """A job that waits; its id."""
        answer = self.client.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset, **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


@pytest.fixture
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietService]:
    """A service of its own, without a record."""
    with backends.place(tmp_path_factory.mktemp("quiet") / "data") as place, live(place) as (api,):
        registry = Registry.open(ServiceSettings(**place))
        with httpx.Client(base_url=api.url, timeout=60) as client:
            yield QuietService(api.url, client, registry)
        registry.close()


def test_pages_are_good_in_every_state(windows: Windows, quiet: QuietService) -> None:
    """Empty lists say what to do; hostile names (scripts, quotes, marks of direction) stay words in every state."""
    window = windows(key=None, at=quiet.url)
    weights = weighed(window.page)
    for path in SECTIONS:
        window.page.goto(path)
        assert path != "/" or 0 < sum(weights.values()) < FIRST_PAGE_BYTES, weights
        good_to_look_at(window.page)
    window.expect(404)
    for path in ("/jobs/job_unknown", "/models/mdl_unknown", "/names/unknown", "/datasets/ds_unknown", "/unknown"):
        window.page.goto(path)
        expect(window.page.get_by_role("alert")).to_be_visible()
    good_to_look_at(window.page)
    records = [f"/{kind}/{record_id}" for kind, record_id in hostile_records(quiet)]
    window = windows(key=None, at=quiet.url)
    for path in (*SECTIONS, *records):
        window.page.goto(path)
        assert spoken(window.page) == [], path
        good_to_look_at(window.page)
    for path in LISTS:
        window.page.goto(path)
        window.page.set_viewport_size({"width": 390, "height": 800})
        assert window.page.evaluate(_NOT_CARDS) == [], path
        accessible(window.page)


def test_a_job_may_be_created_as_soon_as_both_files_are_inspected(windows: Windows, quiet: QuietService) -> None:
    """The button waits, and is enabled without a reload; what was entered and unfolded meanwhile stays."""
    page = windows(key=None, at=quiet.url).page
    model, dataset = quiet.upload("models", "m"), quiet.upload("datasets", "d")
    page.goto(f"/new?model={model}&dataset={dataset}")
    button = page.get_by_role("button", name="Calibrate", exact=True)
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description(re.compile("the inspection of the model and the inspection of the"))
    good_to_look_at(page)
    page.get_by_label("Publish as").fill("mine")
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Seed").fill("7")
    with quiet.registry.write() as unit:
        found = {**MODEL, "output": {"name": "scores", "kind": "logits"}, "trainable": True}
        unit.models.ready(model, profile=found, served_sha256=unit.models.get(model).sha256)
    expect(page.locator("#model")).to_contain_text("It can be fine-tuned")
    expect(button).to_be_disabled()
    with quiet.registry.write() as unit:
        unit.datasets.ready(dataset, profile=DATASET, prepared_sha256=unit.datasets.get(dataset).sha256)
    expect(button).to_be_enabled()
    expect(page.get_by_label("Seed")).to_have_value("7")
    expect(page.get_by_label("Publish as")).to_have_value("mine")
    expect(page.get_by_label("Seed")).to_be_visible()
    button.click()
    page.wait_for_url("**/jobs/job_*")
    [job] = quiet.client.get("/v1/jobs").json()["data"]
    assert (job["publish_as"], job["seed"]) == ("mine", 7)


def hostile_records(quiet: QuietService) -> Iterator[tuple[str, str]]:
    """Records in every state whose names mean harm."""
    model, dataset = quiet.upload("models", HOSTILE), quiet.upload("datasets", HOSTILE)
    rejected = [(kind, quiet.upload(kind, LONG)) for kind in ("models", "datasets")]
    inspecting = [(kind, quiet.upload(kind, HOSTILE)) for kind in ("models", "datasets")]
    jobs = {
        status: quiet.order(model, dataset, metadata={HOSTILE[:64]: HOSTILE}, publish_as="good")
        for status in ("queued", "running", "cancelling", "cancelled", "failed")
    }
    calibrators = [quiet.upload("calibrators", HOSTILE, wait=0) for _ in range(2)]
    batches = [
        quiet.client.post("/v1/batches", json={"model": model, "dataset_id": dataset}).json()["id"] for _ in range(2)
    ]
    error = {"code": "unsafe_format", "message": f"{HOSTILE} is a pickle, and {LONG}", "user_error": True}
    with quiet.registry.write() as unit:
        unit.models.ready(model, profile=MODEL, served_sha256=unit.models.get(model).sha256)
        unit.datasets.ready(dataset, profile=DATASET, prepared_sha256=unit.datasets.get(dataset).sha256)
        unit.models.reject(rejected[0][1], error)
        unit.datasets.reject(rejected[1][1], error)
        unit.calibrators.fail(calibrators[1], error)
        unit.batches.fail(unit.batches.get(batches[1]), error)
        for status, job_id in jobs.items():
            bring_to(unit.jobs.get(job_id), status, unit, error)
    yield from [("models", model), ("datasets", dataset), *rejected, *inspecting]
    yield from [("jobs", job_id) for job_id in jobs.values()]
    yield from [("calibrators", one) for one in calibrators]
    yield from [("batches", one) for one in batches]


def bring_to(row: tables.Job, status: str, unit: Any, error: Json) -> None:
    """The job's way to a status."""
    if status == "queued":
        return
    unit.jobs.change_status(row, "running")
    unit.jobs.enter_stage(row, "training")
    row.progress = {"fraction": 0.4, "candidate": HOSTILE, "eta_seconds": 70}
    unit.events.extend(row.id, [("training", TRAINING), ("epoch", EPOCH), ("score", SCORE)])
    unit.jobs.add_warning(row, {"code": "label_order", "message": HOSTILE, "evidence": {"columns": CLASSES[:2]}})
    if status == "failed":
        unit.jobs.fail(row, error)
    elif status != "running":
        unit.jobs.change_status(row, status)


def spoken(page: Page) -> list[str]:
    """Elements and attributes that a name has made."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('img[onerror], script:not([src])')].map(one => one.outerHTML)"
    )
    return found + (["49"] if "49 שלום" in json.dumps(page.content(), ensure_ascii=False) else [])
