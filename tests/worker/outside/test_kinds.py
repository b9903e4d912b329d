"""Steps over a real registry, with a child's answer in the child's place: looks, evidence, and fitted scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedlas.contract.records import RecordError
from fedlas.contract.requests import JobRequest
from service.registry import tables
from service.registry.presenters import job_record, model_record
from service.registry.queues import ANY_DEVICE, GPU_ONLY, PLAN
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.settings import ServiceSettings, WorkerSettings
from service.registry.tables import new_id, now
from tests.helpers.documents import DATASET_PROFILE, DEMO, MODEL_PROFILE, SCORES_PROFILE
from tests.helpers.staging import stage_bytes
from worker.documents import JobOrder, ScoresOrder
from worker.outside.kinds import Prepared, WorkKind, kind_of

Json = dict[str, Any]
REPORT = json.dumps(DEMO["report"])
ERROR = RecordError(code="bad", message="it is bad", user_error=True)


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """Settings of a worker on the same folder."""
    return WorkerSettings(data_dir=settings.data_dir, database_url=None, broker_url=None, artifacts=None)


class Bench:
    """Records put into the registry, and steps begun on them."""

    def __init__(self, registry: Registry, settings: WorkerSettings) -> None:
        self.registry = registry
        self.settings = settings

    def _kept(self, content: bytes) -> str:
        with stage_bytes(self.registry.artifacts, content) as staged:
            return staged.keep()

    def dataset(self, content: bytes) -> str:
        """A dataset that is ready."""
        row = tables.Dataset(
            id=new_id("ds"), name="d", bytes=len(content), sha256=self._kept(content), status="ready",
            profile=DATASET_PROFILE, options={"split_seed": 0}, created_at=now(),
            prepared_sha256=self._kept(b"prepared " + content),
        )  # fmt: skip
        with self.registry.write() as unit:
            return unit.datasets.add(row).id

    def model(self) -> str:
        """A model that is ready."""
        row = tables.Model(
            id=new_id("mdl"), name="m", bytes=1, sha256=self._kept(b"m"), served_sha256=self._kept(b"m"),
            profile=MODEL_PROFILE, origin="uploaded", status="ready", options={}, created_at=now(),
        )  # fmt: skip
        with self.registry.write() as unit:
            return unit.models.add(row).id

    def job(self, dataset_id: str, model_id: str, **options: Any) -> str:
        """A queued job with its open work."""
        request = JobRequest(model_id=model_id, dataset_id=dataset_id, **options).model_dump()
        row = tables.Job(
            id=new_id("job"), model_id=model_id, dataset_id=dataset_id, status="queued", request=request, progress={},
            history=[], created_at=now(),
        )  # fmt: skip
        with self.registry.write() as unit:
            unit.jobs.add(row)
            unit.work.open(row.id, kind=PLAN if request["dry_run"] else None)
        return row.id

    def calibrator(self, content: bytes) -> str:
        """Scores that wait for their calibrator."""
        row = tables.Calibrator(
            id=new_id("cal"), name="c", bytes=len(content), sha256=self._kept(content), method="auto",
            options={"method": "auto", "class_names": None}, status="running", created_at=now(),
        )  # fmt: skip
        with self.registry.write() as unit:
            unit.calibrators.add(row)
            unit.work.open(row.id)
        return row.id

    def claimed(self, record_id: str, *, lease: float = 60) -> WorkKind:
        """The work that was just claimed."""
        with self.registry.write() as unit:
            claim = unit.work.claim(record_id, worker="w", lease_seconds=lease)
        assert isinstance(claim, Claim)
        return kind_of(claim)(self.registry, self.settings, claim)

    def begun(self, record_id: str) -> tuple[WorkKind, Prepared]:
        """The work and what its child is given."""
        work = self.claimed(record_id)
        prepared = work.begin()
        assert prepared is not None
        return work, prepared

    def job_order(self, record_id: str) -> tuple[WorkKind, JobOrder]:
        """The work of a job and its child's order."""
        work, prepared = self.begun(record_id)
        assert isinstance(prepared.order, JobOrder)
        return work, prepared.order

    def looks(self, record_id: str) -> int:
        """How many looks the child of this job receives."""
        return self.job_order(record_id)[1].looks_before


@pytest.fixture
def bench(registry: Registry, worker_settings: WorkerSettings) -> Bench:
    """An empty registry to work on."""
    return Bench(registry, worker_settings)


def answer(folder: Path, *, verdict: str = "unchanged", significant: bool = False) -> Json:
    """The answer that a child of a job leaves behind; the report stands for any."""
    names = {"report": "report.json", "diagram": "reliability.svg", "page": "report.html"}
    names["predictions"] = "predictions.parquet"
    for name in names.values():
        (folder / name).write_text(f"content of {name}")
    (folder / "report.json").write_text(REPORT)
    serves = "calibrated" if verdict in ("trained", "post_hoc") else "uploaded"
    (folder / "calibrated.onnx").write_bytes(b"onnx")
    (folder / "served.onnx").write_bytes(b"onnx of all outputs")
    calibrated = MODEL_PROFILE if serves == "calibrated" else None
    found = {
        "verdict": verdict,
        "serves": serves,
        "significant": significant,
        "beats_simpler": False,
        "calibrated": calibrated,
    }
    return {**found, "model": "calibrated.onnx", "served": "served.onnx", **names}


def test_the_ledger_survives_deletion_and_reupload(bench: Bench, tmp_path: Path) -> None:
    """After a job the dataset is deleted and sent again, under a new id: its next job counts the earlier look."""
    model, first = bench.model(), bench.dataset(b"rows")
    work, order = bench.job_order(bench.job(first, model))
    assert (order.looks_before, order.dataset.id) == (0, first)
    work.succeeded(answer(tmp_path), tmp_path)
    with bench.registry.write() as unit:
        unnamed = unit.datasets.delete(first)
    bench.registry.discard(unnamed)
    second = bench.dataset(b"rows")
    assert second != first
    assert bench.looks(bench.job(second, model)) == 1
    assert bench.looks(bench.job(bench.dataset(b"other rows"), model)) == 0


def test_every_attempt_is_told_alike_whose_job_it_is(bench: Bench) -> None:
    """Names of model and dataset and the moment of the order travel, none of them from the clock of an attempt."""
    model, data = bench.model(), bench.dataset(b"rows")
    job = bench.job(data, model)
    killed = bench.claimed(job, lease=-1).begin()
    _, second = bench.job_order(job)
    assert killed is not None
    with bench.registry.read() as unit:
        ordered, names = unit.jobs.get(job).created_at, (unit.models.get(model).name, unit.datasets.get(data).name)
    for order in (killed.order, second):
        assert isinstance(order, JobOrder)
        assert (order.created_at, (order.model.name, order.dataset.name)) == (ordered, names)


def test_a_restarted_job_keeps_its_number(bench: Bench) -> None:
    """A job whose worker was killed is claimed again, after another job has looked: its number stays the same."""
    model, data = bench.model(), bench.dataset(b"rows")
    first, second = bench.job(data, model), bench.job(data, model)
    assert bench.claimed(first, lease=-1).begin() is not None
    assert bench.looks(second) == 1
    assert bench.looks(first) == 0


@pytest.mark.parametrize("end", ["failed", "cancelled", "cancelled before its second attempt", "undetermined"])
def test_jobs_that_showed_nothing_give_back(bench: Bench, tmp_path: Path, end: str) -> None:
    """A job that fails, is cancelled, or ends undetermined leaves the ledger as it was."""
    model, data = bench.model(), bench.dataset(b"rows")
    job_id = bench.job(data, model)
    work, _ = bench.begun(job_id)
    if end == "failed":
        work.failed(ERROR)
    elif end == "undetermined":
        work.succeeded(answer(tmp_path, verdict="undetermined"), tmp_path)
    elif end == "cancelled":
        with bench.registry.write() as unit:
            work.cancelled(unit)
    else:
        with bench.registry.write() as unit:
            work.lost(unit, "signal 9")
            unit.jobs.change_status(unit.jobs.get(job_id), "cancelling")
        assert bench.claimed(job_id).begin() is None
    assert bench.looks(bench.job(data, model)) == 0


@pytest.mark.parametrize(("verdict", "significant"), [("post_hoc", True), ("post_hoc", False), ("unchanged", False)])
def test_rows_that_judged_have_looked(bench: Bench, tmp_path: Path, verdict: str, significant: bool) -> None:
    """A look is spent by what is significant, by what is only served, and by what test rows have vetoed."""
    model, data = bench.model(), bench.dataset(b"rows")
    answered = answer(tmp_path, verdict=verdict, significant=significant)
    bench.begun(bench.job(data, model))[0].succeeded(answered, tmp_path)
    assert bench.looks(bench.job(data, model)) == 1


#: `publish_when`, whether the name has a version, verdict, whether it is significant, and whether it is published.
PUBLICATIONS = [
    (None, False, "post_hoc", False, True),
    (None, True, "post_hoc", False, False),
    (None, True, "post_hoc", True, True),
    (None, False, "unchanged", False, True),
    (None, True, "unchanged", False, False),
    ("calibrated", True, "post_hoc", False, True),
    ("significant", False, "post_hoc", False, True),
    ("significant", True, "post_hoc", False, False),
    ("significant", False, "trained", True, True),
    ("always", True, "unchanged", False, True),
    ("always", False, "undetermined", False, True),
]


@pytest.mark.parametrize(("when", "again", "verdict", "significant", "published"), PUBLICATIONS)
def test_what_is_published(
    bench: Bench, tmp_path: Path, when: str | None, again: bool, verdict: str, significant: bool, published: bool
) -> None:
    """A new name always gets its first version; the next must be shown to be better, or else a warning says why not."""
    model, data = bench.model(), bench.dataset(b"rows")
    if again:
        with bench.registry.write() as unit:
            unit.names.publish("name", unit.models.get(model))
    job_id = bench.job(data, model, publish_as="name", publish_when=when)
    work = bench.begun(job_id)[0]
    work.note({"stage": "calibrating"})
    work.succeeded(answer(tmp_path, verdict=verdict, significant=significant), tmp_path)
    with bench.registry.read() as unit:
        row = unit.jobs.get(job_id)
        record = job_record(unit, row, unit.work.of(job_id))
        told = (record.significant, record.beats_simpler, record.publish_as, record.publish_when)
        assert told == (significant, False, "name", when)
        versions = unit.names.get("name").versions if again or published else {}
        assert list(versions.values()) == [model] * again + [row.calibrated_model_id] * published
        found = [(event.type, event.data) for event in unit.events.newest_before(job_id, None, limit=5)]
        last = [(kind, data) for kind, data in found if kind != "warning"][:4]
        assert record.predict_url == f"/v1/models/{row.calibrated_model_id}/predict"
        codes = ["undetermined"] * (verdict == "undetermined") + ["not_published"] * (not published)
        assert [warning.code for warning in record.warnings] == codes
    assert last[2:] == [("stage", {"stage": name}) for name in ("publishing", "calibrating")], "no heartbeat wrote them"
    assert last[0] == ("status", {"status": "succeeded"})
    assert last[1][0] == "publication"
    said = last[1][1]
    assert said == {"name": "name", "version": len(versions)} if published else said.keys() == {"name", "reason"}


def test_a_dry_run_takes_no_look_and_publishes_nothing(bench: Bench, tmp_path: Path) -> None:
    """A dry run receives the looks so far and leaves the ledger as it was; only its plan is kept."""
    model, data = bench.model(), bench.dataset(b"rows")
    bench.begun(bench.job(data, model))[0].succeeded(answer(tmp_path), tmp_path)
    dry = bench.job(data, model, dry_run=True, publish_as="name", publish_when="always")
    work, order = bench.job_order(dry)
    assert (order.kind, order.looks_before, order.request.dry_run) == ("plan", 1, True)
    work.succeeded({"plan": DEMO["plan"]}, tmp_path)
    with bench.registry.read() as unit:
        row = unit.jobs.get(dry)
        assert (row.status, row.verdict, row.serves, row.calibrated_model_id) == ("succeeded", None, None, None)
        assert (row.plan, row.progress) == (DEMO["plan"], {"fraction": 1.0})
        assert list(unit.names.listed(limit=10, after=None)) == []
        assert unit.work.of(dry).state == "done"
        assert unit.ledger.evaluations(unit.datasets.get(data).sha256) == 1


def test_a_dry_run_waits_for_its_inputs_and_tells_why_it_cannot_run(bench: Bench) -> None:
    """While an input is inspected a dry run waits; on a rejected one it fails, as a job does."""
    model, data = bench.model(), bench.dataset(b"rows")
    with bench.registry.write() as unit:
        unit.models.get(model).status = "inspecting"
    dry = bench.job(data, model, dry_run=True)
    assert bench.claimed(dry).begin() is None
    with bench.registry.read() as unit:
        assert (unit.work.of(dry).state, unit.jobs.get(dry).status) == ("blocked", "queued")
    with bench.registry.write() as unit:
        unit.models.reject(model, ERROR.model_dump())
        unit.work.unblock(unit.models.open_users(model))
    assert bench.claimed(dry).begin() is None
    with bench.registry.read() as unit:
        assert unit.jobs.get(dry).error["code"] == "model_rejected"


@pytest.mark.parametrize("users", [True, False])
@pytest.mark.parametrize("noun", ["model", "dataset"])
def test_whose_fault_a_rejection_is(bench: Bench, noun: str, users: bool) -> None:
    """A job or batch on what was rejected for a defect of ours says that it is ours, else that it is the sender's."""
    model, data = bench.model(), bench.dataset(b"rows")
    error = {"code": "internal_error", "message": "on our side", "user_error": users}
    with bench.registry.write() as unit:
        (unit.models if noun == "model" else unit.datasets).reject(model if noun == "model" else data, error)
        row = tables.Batch(
            id=new_id("bat"), model_id=model, dataset_id=data, options={}, status="queued", progress={},
            created_at=now(),
        )  # fmt: skip
        unit.batches.add(row)
        unit.work.open(row.id)
    job = bench.job(data, model)
    assert bench.claimed(job).begin() is bench.claimed(row.id).begin() is None
    with bench.registry.read() as unit:
        for found in (unit.jobs.get(job).error, unit.batches.get(row.id).error):
            assert found is not None
            assert (found["code"], found["user_error"]) == (f"{noun}_rejected", users)
            assert found["message"].endswith("was rejected by inspection: on our side")


def refitted(bench: Bench, data: str, model: str, folder: Path, *, verdict: str = "trained") -> tuple[str, str]:
    """The model that a job on these made, and the key of the rows that it has seen; `trained` leaves those."""
    result = answer(folder, verdict=verdict)
    (folder / "seen_rows.npz").write_bytes(b"digests")
    work, order = bench.job_order(bench.job(data, model))
    work.succeeded(result | ({"seen_rows": "seen_rows.npz"} if verdict == "trained" else {}), folder)
    with bench.registry.read() as unit:
        made = unit.jobs.get(order.job_id).calibrated_model_id
    assert made is not None
    return made, order.model.row_key


def test_a_refit_takes_the_rows_that_it_has_seen_along(bench: Bench, tmp_path: Path) -> None:
    """A later job on it, or on what was calibrated of it, is given the file and its key; no record shows either."""
    model, data = bench.model(), bench.dataset(b"rows")
    work, prepared = bench.begun(bench.job(data, model))
    assert "seen_rows" not in prepared.files
    work.failed(ERROR)
    first, key = refitted(bench, data, model, tmp_path)
    second, _ = refitted(bench, data, first, tmp_path, verdict="post_hoc")
    for made in (first, second):
        for options in ({}, {"dry_run": True}):
            prepared = bench.begun(bench.job(data, made, **options))[1]
            assert isinstance(prepared.order, JobOrder)
            assert prepared.order.model.row_key == key
            assert Path(prepared.files["seen_rows"]).read_bytes() == b"digests"
        with bench.registry.read() as unit:
            row = unit.models.get(made)
            shown = model_record(unit, row).model_dump_json()
        assert row.seen_rows_sha256 is not None
        assert not any(word in shown for word in ("seen_rows", key, row.seen_rows_sha256))


def test_each_line_of_models_has_a_key_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """The holder of one key can read the rows of no other model's file; a second refit goes on under the first's."""
    model, data = bench.model(), bench.dataset(b"rows")
    first, key = refitted(bench, data, model, tmp_path)
    assert refitted(bench, data, first, tmp_path)[1] == key
    assert refitted(bench, data, model, tmp_path)[1] != key


def test_a_refit_that_is_sent_again_has_seen_what_it_has_seen(bench: Bench, tmp_path: Path) -> None:
    """Under a new id and name, or saved once more, the file of a refit is known by the job in its metadata."""
    model, data = bench.model(), bench.dataset(b"rows")
    made, key = refitted(bench, data, model, tmp_path)
    again = bench.model()
    with bench.registry.write() as unit:
        unit.models.get(again).status = "inspecting"
        unit.work.open(again)
        wrote = unit.models.get(made).job_id
    found = {"profile": MODEL_PROFILE, "served": "calibrated.onnx", "written_by": wrote}
    bench.begun(again)[0].succeeded(found, tmp_path)
    with bench.registry.write() as unit:
        gone = unit.models.delete(made)
    bench.registry.discard(gone)
    prepared = bench.begun(bench.job(data, again))[1]
    assert isinstance(prepared.order, JobOrder)
    assert prepared.order.model.row_key == key
    assert Path(prepared.files["seen_rows"]).read_bytes() == b"digests"


def test_evidence_is_kept_together(bench: Bench, tmp_path: Path) -> None:
    """Report, diagram, page and predictions are stored with the job's end."""
    job_id = bench.job(bench.dataset(b"rows"), bench.model())
    bench.begun(job_id)[0].succeeded(answer(tmp_path), tmp_path)
    with bench.registry.read() as unit:
        row = unit.jobs.get(job_id)
    kept = [row.report_sha256, row.diagram_sha256, row.page_sha256, row.predictions_sha256]
    found = [bench.registry.artifacts.path(digest).read_text() for digest in kept if digest]
    contents = ("reliability.svg", "report.html", "predictions.parquet")
    assert found == [REPORT, *(f"content of {name}" for name in contents)]


NONE = ["", "[]", "{}", REPORT.replace('"seed"', '"seeds"'), REPORT[:-1], "[" * 100_000]
NONE += [re.sub(r'"value": [0-9.]+', f'"value": {number}', REPORT, count=1) for number in ("NaN", "-Infinity")]


@pytest.mark.parametrize("content", NONE)
def test_a_report_that_is_none_is_not_published(bench: Bench, tmp_path: Path, content: str) -> None:
    """The child's report is the document that clients are promised, or the job does not succeed."""
    job_id = bench.job(bench.dataset(b"rows"), bench.model())
    result = answer(tmp_path)
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match="Report"):
        bench.begun(job_id)[0].succeeded(result, tmp_path)
    with bench.registry.read() as unit:
        assert unit.jobs.get(job_id).status == "running"


def test_jobs_of_an_earlier_version_get_todays_defaults(bench: Bench) -> None:
    """A job that was ordered before an option existed is done with that option's default."""
    job_id = bench.job(bench.dataset(b"rows"), bench.model())
    with bench.registry.write() as unit:
        row = unit.jobs.get(job_id)
        old = {name: value for name, value in row.request.items() if name != "max_cost_factor"}
        note = {"note": 1000 * "x"}  # longer than may be ordered today
        row.request = {**old, "metadata": note, "hyperparameters": {"alpha": 0.1}}
    request = bench.job_order(job_id)[1].request
    assert request.max_cost_factor == "auto"
    assert (request.hyperparameters.alpha, request.hyperparameters.optimizer) == (0.1, "auto")
    assert (request.metadata, request.webhook) == ({}, None)


@pytest.mark.parametrize("queue", [GPU_ONLY, ANY_DEVICE])
def test_a_job_that_no_card_holds_goes_on_on_the_cpu(bench: Bench, queue: str) -> None:
    """A card too small is no failure and no attempt: any worker takes the job, and a warning has the reason."""
    job_id = bench.job(bench.dataset(b"rows"), bench.model(), accelerator="gpu" if queue == GPU_ONLY else "auto")
    with bench.registry.write() as unit:
        unit.work.of(job_id).queue = queue
    error = RecordError(code="card_too_small", message="8 GiB do not hold it", user_error=False)
    bench.begun(job_id)[0].failed(error)
    with bench.registry.read() as unit:
        row, work = unit.jobs.get(job_id), unit.work.of(job_id)
        record = job_record(unit, row, work)
        assert (work.state, work.queue, work.attempts, work.losses) == ("waiting", ANY_DEVICE, 0, [])
        assert (record.status, record.error) == ("queued", None)
        assert [(one.code, one.message) for one in record.warnings] == [
            ("card_too_small", "8 GiB do not hold it; the job goes on on the CPU")
        ]
        events = [event.data for event in unit.events.of_types(job_id, ["attempt", "warning"])]
        assert [event.get("reason", event.get("code")) for event in events] == [
            "card_too_small",
            "the memory of its card is too small",
        ]
        due = unit.work.next_due(ANY_DEVICE)
    assert due is not None
    assert due.record_id == job_id
    bench.begun(job_id)[0].failed(error)
    with bench.registry.read() as unit:
        row = unit.jobs.get(job_id)
    assert (row.status, row.error and row.error["code"]) == ("failed", "card_too_small"), "and not for ever"


def test_fitted_scores_are_published(bench: Bench, tmp_path: Path) -> None:
    """Results of the child stand in the record, with their files' digests; its scores stay until it is deleted."""
    record_id = bench.calibrator(b"scores")
    work, prepared = bench.begun(record_id)
    assert isinstance(prepared.order, ScoresOrder)
    assert (Path(prepared.files["scores"]).read_bytes(), prepared.order.looks_before) == (b"scores", 0)
    files = {"onnx": "c.onnx", "report": "r.json", "page": "r.html", "diagram": "d.svg"}
    for name in files.values():
        (tmp_path / name).write_text(REPORT if name == "r.json" else name)
    result = {
        **files,
        "method": "temperature",
        "parameters": {"temperature": 2.0},
        "excerpt": {"verdict": "post_hoc"},
        "profile": SCORES_PROFILE,
    }
    work.succeeded(result, tmp_path)
    with bench.registry.read() as unit:
        row = unit.calibrators.get(record_id)
        assert (row.status, row.method, row.parameters) == ("succeeded", "temperature", {"temperature": 2.0})
        assert unit.work.of(record_id).state == "done"
        assert unit.ledger.evaluations(row.sha256) == 1
    for name, file in files.items():
        digest = getattr(row, f"{name}_sha256")
        assert bench.registry.artifacts.path(digest).read_bytes() == (tmp_path / file).read_bytes()
    with bench.registry.write() as unit:
        bench.registry.artifacts.remove(unit.calibrators.delete(record_id))
    assert [path for path in bench.registry.artifacts.root.rglob("*") if path.is_file()] == []


def test_refused_scores_keep_the_reason(bench: Bench) -> None:
    """A child's error is in the record, and the work is over."""
    record_id = bench.calibrator(b"scores")
    bench.begun(record_id)[0].failed(ERROR)
    with bench.registry.read() as unit:
        row = unit.calibrators.get(record_id)
        assert (row.status, row.error, unit.work.of(record_id).state) == ("failed", ERROR.model_dump(), "done")
        assert unit.ledger.evaluations(row.sha256) == 0


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "another"},
        {"status": "ready"},
        {"num_classes": "many"},
        {"class_names": ["\ud800", "b"]},
        {"warnings": 5},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_findings_that_no_list_could_show_are_not_published(bench: Bench, tmp_path: Path, odd: Json) -> None:
    """A child that was taken over cannot break the lists of everybody by what it says of its own upload."""
    (tmp_path / "report.json").write_text(REPORT)
    (tmp_path / "file").write_bytes(b"file")
    data, model, scores = bench.dataset(b"rows"), bench.model(), bench.calibrator(b"scores")
    with bench.registry.write() as unit:
        for record_id in (data, model):
            unit.work.open(record_id)
        unit.datasets.get(data).status = unit.models.get(model).status = "inspecting"
    answers = {
        data: {"prepared": "file", "profile": {**DATASET_PROFILE, **odd}},
        model: {"served": "file", "profile": {**MODEL_PROFILE, **odd}},
        scores: {
            **dict.fromkeys(("onnx", "page", "diagram"), "file"),
            "report": "report.json",
            "profile": {**SCORES_PROFILE, **odd},
            "excerpt": {},
            "method": "temperature",
            "parameters": {},
        },
    }
    for record_id, result in answers.items():
        if record_id == scores and "warnings" in odd:
            continue  # a calibrator's record has none
        work, _ = bench.begun(record_id)
        with pytest.raises((ValueError, TypeError)):
            work.succeeded(result, tmp_path)
    with bench.registry.read() as unit:
        assert (unit.datasets.get(data).status, unit.models.get(model).status) == ("inspecting", "inspecting")
        assert unit.work.of(data).state == unit.work.of(model).state == "claimed"
        assert unit.calibrators.get(scores).status == "running"
