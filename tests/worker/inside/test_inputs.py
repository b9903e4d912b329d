"""Files that a child may read: those handed out for it, whatever the request and earlier children say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fedlas.contract.options import DatasetOptions
from fedlas.contract.requests import JobRequest
from service.confinement.confinement import controls_on
from service.registry import tables
from service.registry.queues import PLAN
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.settings import ServiceSettings, WorkerSettings
from service.registry.tables import now
from tests.helpers import uploads as made
from tests.helpers.documents import MODEL_PROFILE
from tests.helpers.service import ROOT
from tests.helpers.staging import stage_bytes
from tests.helpers.work import execute
from worker.documents import InspectDatasetOrder, WorkOrder
from worker.inside import child
from worker.outside.kinds import kind_of
from worker.outside.supervisor import Supervisor
from worker.sandbox import confinement
from worker.sandbox import process as sandbox
from worker.sandbox.process import ChildOutcome
from worker.sandbox.protocol import ChildRequest, Limits

Json = dict[str, Any]
OPTIONS = {"format": None, "roles": None, "seen_by_model": None, "split_seed": 0, "missing": "reject"}
ORDER = InspectDatasetOrder(options=DatasetOptions())


class WordyOrder(BaseModel):
    """An order with more words than the child knows."""

    kind: str = "inspect_dataset"
    options: Json = OPTIONS
    metadata: Json
    profile: Json = {"model": {"file": "/"}}
    file: str


LONG = "x" * 300
#: Keys under which files stand in orders, and paths that would open the machine.
_KEYS = st.sampled_from(["file", "model.file", "dataset.file", "journal", "model", "inputs", "a"]) | st.text(max_size=5)
_PATHS = st.sampled_from(["/", "/etc", "/etc/shadow", "..", "/proc/1/environ", LONG, "", "/dev/shm"])
_WORDS = _PATHS | st.text(max_size=8)
DOCUMENTS = st.dictionaries(
    _KEYS,
    st.recursive(
        _WORDS | st.none() | st.integers(0, 9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)
METADATA = st.dictionaries(_KEYS, _WORDS, max_size=5)
ROLES = st.dictionaries(_KEYS, _WORDS | st.lists(_WORDS, max_size=3), max_size=5)
PROFILES = st.builds(
    lambda words, names: {
        **MODEL_PROFILE,
        "class_names": names,
        "positive_class": words[0],
        "warnings": words,
        "features": {"layer": words[1], "dim": 2},
        "output": {"name": words[2], "kind": "logits"},
    },
    st.lists(_WORDS, min_size=3, max_size=3),
    st.lists(_WORDS, min_size=2, max_size=2),
)


class Captured(Exception):
    """The files that a child asked to be granted."""


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """Settings of a worker on the same folder."""
    return WorkerSettings(**settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"}))


def kept(registry: Registry, content: bytes) -> str:
    """A stored file."""
    with stage_bytes(registry.artifacts, content) as staged:
        return staged.keep()


def records(
    digests: dict[str, str], said: Json, roles: Json, found: Json, profile: Json, metadata: Json
) -> list[tables.Base]:
    """One record of each kind of work, with this in every field that a request or a child fills."""
    fresh = {"created_at": now(), "bytes": 1, "name": json.dumps(said)[:200]}
    request = JobRequest(model_id="mdl_1", dataset_id="ds_1").model_dump()
    job = {
        "model_id": "mdl_1",
        "dataset_id": "ds_1",
        "progress": {},
        "history": [],
        "created_at": now(),
        "status": "queued",
        "plan": found,
        "request": {**request, "metadata": metadata, "webhook": {"url": "/", "secret": "/", "file": "/"}},
    }
    batch = {name: job[name] for name in ("model_id", "dataset_id", "created_at", "status")} | {"progress": found}
    return [
        tables.Dataset(
            id="ds_1",
            sha256=digests["dataset"],
            prepared_sha256=digests["prepared"],
            options={**said, "roles": roles},
            profile=found,
            status="ready",
            **fresh,
        ),
        tables.Model(
            id="mdl_1",
            sha256=digests["model"],
            served_sha256=digests["served"],
            options={**said, "output": "/"},
            profile=profile,
            origin="uploaded",
            status="ready",
            **fresh,
        ),
        tables.Calibrator(
            id="cal_1",
            sha256=digests["scores"],
            options={**said, "method": "/"},
            profile=found,
            method="auto",
            status="running",
            **fresh,
        ),
        *(tables.Batch(id=record_id, options=said, **batch) for record_id in ("bat_1", "bat_2")),
        tables.Piece(
            id="shd_1",
            parent_id="bat_2",
            place=0,
            name="rows-0",
            order={"first_row": 0, "num_rows": 1, **said},
            status="waiting",
            created_at=now(),
        ),
        tables.Job(id="job_1", **job),
        tables.Job(id="job_2", **job),
        tables.Checkpoint(job_id="job_1", name="base", sha256=digests["saved"], saved_at=now()),
    ]


#: Stored files that each kind of work is given, by the names of its child's function.
GIVEN = {
    "ds_1": {"dataset": "dataset"},
    "mdl_1": {"model": "model"},
    "cal_1": {"scores": "scores"},
    "bat_1": {"model": "served", "dataset": "prepared"},
    "shd_1": {"model": "served", "dataset": "prepared"},
    "job_1": {"model": "model", "dataset": "prepared", "checkpoint.base": "saved"},
    "job_2": {"model": "model", "dataset": "prepared"},
}


def granted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that the child of `request.json` would be granted."""

    def confine(folder: Path, inputs: Iterable[Path]) -> None:
        raise Captured([str(file) for file in inputs])

    with monkeypatch.context() as patched, pytest.raises(Captured) as caught:
        patched.setattr(child, "confine", confine)
        patched.setattr(child, "_claim_stdout", lambda: print)
        patched.setattr(child, "take_limits", lambda limits: None)
        child.main(folder)
    return list(caught.value.args[0])


def ordered(folder: Path, monkeypatch: pytest.MonkeyPatch, prepared: Any) -> None:
    """Write the order of a child that is not started."""

    def refuse(*_: object, **__: object) -> None:
        raise Captured

    with monkeypatch.context() as patched, pytest.raises(Captured):
        patched.setattr(subprocess, "Popen", refuse)
        sandbox.run(prepared, folder=folder, on_event=lambda event: None, on_tick=lambda: None)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=DOCUMENTS, roles=ROLES, found=DOCUMENTS, profile=PROFILES, metadata=METADATA)
def test_no_field_of_a_request_changes_what_is_granted(
    said: Json,
    roles: Json,
    found: Json,
    profile: Json,
    metadata: Json,
    registry: Registry,
    worker_settings: WorkerSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names, options, profiles, plans, webhooks and metadata of any content: each kind reads its own files only."""
    names = ("dataset", "prepared", "model", "served", "scores", "saved")
    digests = {name: kept(registry, name.encode()) for name in names}
    with registry.write() as unit:
        session = unit.session
        for row in records(digests, said, roles, found, profile, metadata):
            session.merge(row)
    for record_id, files in GIVEN.items():
        claim = Claim(record_id, PLAN if record_id == "job_2" else "any", token=1, attempts=1)
        with registry.write() as unit:
            work = unit.session.get(tables.Work, record_id) or unit.work.open(record_id, kind="any", queue="any")
            work.state, work.token = "claimed", 1
        work = kind_of(claim)(registry, worker_settings, claim)
        prepared = work.begin()
        assert prepared is not None
        ordered(tmp_path, monkeypatch, prepared)
        places = {name: str(registry.artifacts.path(digests[stored])) for name, stored in files.items()}
        assert sorted(granted(tmp_path, monkeypatch)) == sorted(places.values())
        request = ChildRequest[WorkOrder].model_validate_json((tmp_path / "request.json").read_bytes())
        assert (request.files, request.order) == (places, prepared.order)


@pytest.mark.parametrize("record_id", ["bat_1", "job_1"])
def test_a_profile_that_is_none_starts_no_child(
    registry: Registry, worker_settings: WorkerSettings, record_id: str
) -> None:
    """Where a stored profile is no model's, nothing is ordered."""
    digests = {name: kept(registry, b"x") for name in ("dataset", "prepared", "model", "served", "scores", "saved")}
    with registry.write() as unit:
        for row in records(digests, {}, {}, {}, {"file": "/"}, {}):
            unit.session.merge(row)
        unit.work.open(record_id)
        claim = unit.work.claim(record_id, worker="w", lease_seconds=60)
    assert claim is not None
    with pytest.raises(ValidationError):
        kind_of(claim)(registry, worker_settings, claim).begin()


def run(folder: Path, order: BaseModel = ORDER, **files: str) -> ChildOutcome:
    """Inspect a dataset in a real child."""
    return sandbox.run(
        ChildRequest(order=order, files=files, limits=Limits(60)),
        folder=folder,
        on_event=lambda event: None,
        on_tick=lambda: None,
    )


def in_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose standard input stays open."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output = process.stdout.read(), process.stderr.read()
        return subprocess.CompletedProcess(code, process.wait(60), *output)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A child's folder, and a readable dataset of somebody else outside of it."""
    if not confinement.status(tmp_path)["files"].startswith("on"):
        pytest.skip("not on this machine: Landlock")
    folder, secret = tmp_path / "work", tmp_path / "secret.npz"
    folder.mkdir()
    secret.write_bytes(made.digits_npz())
    return folder, secret


@pytest.mark.parametrize("metadata", [{"file": "/"}, {"file": LONG}, {"file": "a\0b"}], ids=["root", "long", "NUL"])
def test_words_of_a_request_open_nothing(place: tuple[Path, Path], metadata: Json) -> None:
    """A real child whose order speaks of `/`, or of a name longer than any, reads nothing that was not handed out."""
    folder, secret = place
    outcome = run(folder, WordyOrder(file=str(secret), metadata=metadata))
    assert (outcome.result, outcome.died) == (None, "exit code 1")  # no such order
    assert "Extra inputs are not permitted" in outcome.log
    options = DatasetOptions.read({**OPTIONS, "roles": {"file": str(secret), **metadata}, **metadata})
    outcome = run(folder, InspectDatasetOrder(options=options))
    assert outcome.error is not None, outcome
    assert outcome.error.code == "internal_error"
    assert "KeyError: 'dataset'" in outcome.log


def test_one_bad_grant_is_left_out_alone(place: tuple[Path, Path]) -> None:
    """Beside inputs that are missing, too long, folders, or no names at all a child reads the one that is there."""
    folder, secret = place
    odd = {"a": LONG, "b": str(folder.parent / "not there"), "c": "/", "d": str(folder.parent), "e": "a\0b", "f": ""}
    good = run(folder, dataset=str(secret), **odd)
    assert good.result is not None, (good.error, good.log)
    outside = folder.parent / "other.npz"
    outside.write_bytes(made.digits_npz())
    files = {"dataset": str(secret), **odd}
    request = {"order": ORDER.model_dump(), "files": files, "limits": {"seconds": 60}, "expected": []}
    (folder / "request.json").write_text(json.dumps(request))
    code = (
        "import sys; from pathlib import Path; from worker.inside import child\n"
        "child.answer_to = lambda *_: Path(sys.argv[2]).read_bytes().hex()\n"
        "sys.exit(child.main(Path(sys.argv[1])))\n"
    )
    for file, code_of_exit in ((secret, 0), (outside, 1)):
        done = in_python(code, str(folder), str(file))
        assert done.returncode == code_of_exit, done.stderr
        assert ("PermissionError" in done.stderr) == (file == outside)


def test_a_child_without_an_expected_protection_opens_nothing(place: tuple[Path, Path]) -> None:
    """Where the trial found a control on, a child in which it is off ends at once, and says what is missing."""
    folder, secret = place
    request = {
        "order": {"kind": "inspect_dataset", "options": OPTIONS},
        "files": {"dataset": str(secret)},
        "limits": {"seconds": 60},
        "expected": controls_on(confinement.status(folder.parent)),
    }
    (folder / "request.json").write_text(json.dumps(request))
    code = (
        "import sys; from pathlib import Path; from worker.inside import child\n"
        "from service.confinement import landlock\n"
        "def denied(*_): raise OSError(36, 'File name too long')\n"
        "landlock.restrict = denied\n"
        "child.KINDS = {}\n"
        "sys.exit(child.main(Path(sys.argv[1])))\n"
    )
    done = in_python(code, str(folder))
    assert done.returncode == child.UNPROTECTED, done.stderr
    assert json.loads(done.stdout)["confined"]["files"] == "off: [Errno 36] File name too long"
    assert not (folder / "answer.json").exists()


def test_unprotected_work_is_put_off(
    registry: Registry, worker_settings: WorkerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A lack of protection is no fault and no attempt of the upload; it waits, and is done at last."""
    row = tables.Dataset(
        id="ds_1",
        name="d",
        bytes=1,
        sha256=kept(registry, made.digits_npz()),
        status="inspecting",
        options=OPTIONS,
        created_at=now(),
    )
    with registry.write() as unit:
        unit.datasets.add(row)
        unit.work.open(row.id)
    supervisor = Supervisor(worker_settings, registry, name="w", expected=["files", "a new control"])
    for _ in range(2):
        execute(supervisor, registry, row.id)
        with registry.write() as unit:
            work = unit.work.of(row.id)
            assert (work.state, work.attempts, list(work.losses)) == ("waiting", 0, [])
            assert work.not_before > unit.now() + timedelta(seconds=4)
            assert unit.datasets.get(row.id).status == "inspecting"
            work.not_before = unit.now()
    assert "a new control off: unknown" in caplog.text
    protected = Supervisor(worker_settings, registry, name="x", expected=controls_on(confinement.status()))
    execute(protected, registry, row.id)
    with registry.read() as unit:
        assert unit.datasets.get(row.id).status == "ready"
