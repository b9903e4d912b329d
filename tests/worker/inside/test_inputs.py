"""What a child may read: the files that were handed out for it, whatever the request and earlier children say."""

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

from service.registry import tables
from service.registry.contract import PLAN, JobRequest
from service.registry.repositories import Claim
from service.registry.repositories.records import now
from service.registry.unit_of_work import Registry
from service.settings import ServiceSettings
from tests.helpers import uploads as made
from tests.helpers.service import ROOT
from tests.helpers.staging import stage_bytes
from tests.helpers.work import execute
from worker.inside import child
from worker.outside.kinds import kind_of
from worker.outside.supervisor import Supervisor
from worker.sandbox import confinement
from worker.sandbox import process as sandbox
from worker.sandbox.child_output import ChildOutcome
from worker.sandbox.process import Limits
from worker.settings import WorkerSettings

Json = dict[str, Any]

OPTIONS = {"format": None, "roles": None, "seen_by_model": None, "split_seed": 0, "missing": "reject"}
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


class Captured(Exception):
    """What a child asked to be granted."""


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """Settings of a worker on the same folder."""
    return WorkerSettings(**settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"}))


def kept(registry: Registry, content: bytes) -> str:
    """A stored file."""
    with stage_bytes(registry.artifacts, content) as staged:
        return staged.keep()


def records(digests: dict[str, str], said: Json, found: Json, metadata: Json) -> list[tables.Base]:
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
    return [
        tables.Dataset(
            id="ds_1",
            sha256=digests["dataset"],
            prepared_sha256=digests["prepared"],
            options={**said, "roles": said},
            profile=found,
            status="ready",
            **fresh,
        ),
        tables.Model(
            id="mdl_1",
            sha256=digests["model"],
            served_sha256=digests["served"],
            options={**said, "output": "/"},
            profile=found,
            origin="uploaded",
            status="ready",
            **fresh,
        ),
        tables.Calibrator(
            id="cal_1", sha256=digests["scores"], options=said, profile=found, method="auto", status="running", **fresh
        ),
        tables.Batch(
            id="bat_1",
            model_id="mdl_1",
            dataset_id="ds_1",
            options=said,
            progress=found,
            status="queued",
            created_at=now(),
        ),
        tables.Job(id="job_1", **job),
        tables.Job(id="job_2", **job),
        tables.Checkpoint(job_id="job_1", name="base", sha256=digests["saved"], saved_at=now()),
    ]


#: Which stored files each kind of work is given.
GIVEN = {
    "ds_1": {"dataset"},
    "mdl_1": {"model"},
    "cal_1": {"scores"},
    "bat_1": {"served", "prepared"},
    "job_1": {"model", "prepared", "saved"},
    "job_2": {"model", "prepared"},
}


def granted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the child that `request.json` orders would be granted."""

    def confine(folder: Path, inputs: Iterable[Path]) -> None:
        raise Captured([str(file) for file in inputs])

    with monkeypatch.context() as patched, pytest.raises(Captured) as caught:
        patched.setattr(child, "confine", confine)
        patched.setattr(child, "_claim_stdout", lambda: print)
        patched.setattr(child, "_take_limits", lambda limits: None)
        child.main(folder)
    return list(caught.value.args[0])


def ordered(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, prepared: Any) -> None:
    """Write the order of a child that is not started."""

    def refuse(*_: object, **__: object) -> None:
        raise Captured

    with monkeypatch.context() as patched, pytest.raises(Captured):
        patched.setattr(subprocess, "Popen", refuse)
        sandbox.run(
            kind,
            prepared.spec,
            inputs=prepared.inputs,
            folder=folder,
            limits=prepared.limits,
            on_event=lambda event: None,
            on_tick=lambda: None,
        )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=DOCUMENTS, found=DOCUMENTS, metadata=METADATA)
def test_no_field_of_a_request_changes_what_is_granted(
    said: Json,
    found: Json,
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
        session = unit.work.session
        for row in records(digests, said, found, metadata):
            session.merge(row)
    for record_id, files in GIVEN.items():
        claim = Claim(record_id, PLAN if record_id == "job_2" else "any", token=1, attempts=1)
        with registry.write() as unit:
            work = unit.work.session.get(tables.Work, record_id) or unit.work.open(record_id, kind="any")
            work.state, work.token = "claimed", 1
        work = kind_of(claim)(registry, worker_settings, claim)
        prepared = work.begin()
        assert prepared is not None
        ordered(tmp_path, monkeypatch, work.name, prepared)
        places = {str(registry.artifacts.path(digests[name])) for name in files}
        assert set(granted(tmp_path, monkeypatch)) == places
        request = json.loads((tmp_path / "request.json").read_text())
        looked_up = child.with_files(request["spec"], request["inputs"])
        wanted = [looked_up] if record_id in ("ds_1", "mdl_1", "cal_1") else [looked_up["model"], looked_up["dataset"]]
        assert {place["file"] for place in wanted} <= places
        if record_id.startswith("job"):
            assert {entry["file"] for entry in looked_up["journal"].values()} == places - {w["file"] for w in wanted}


def run(folder: Path, spec: Json, **inputs: str) -> ChildOutcome:
    """Inspect a dataset in a real child."""
    return sandbox.run(
        "inspect_dataset",
        {"options": OPTIONS, **spec},
        inputs=inputs,
        folder=folder,
        limits=Limits(60),
        on_event=lambda event: None,
        on_tick=lambda: None,
    )


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
    outcome = run(folder, {"file": str(secret), "metadata": metadata, "profile": {"model": {"file": "/"}}})
    assert outcome.error is not None, outcome
    assert outcome.error["code"] == "internal_error"
    assert "PermissionError" in outcome.log


def test_one_bad_grant_is_left_out_alone(place: tuple[Path, Path]) -> None:
    """Beside inputs that are missing, too long, folders, or no names at all a child reads the one that is there."""
    folder, secret = place
    odd = {"a": LONG, "b": str(folder.parent / "not there"), "c": "/", "d": str(folder.parent), "e": "a\0b", "f": ""}
    good = run(folder, {}, file=str(secret), **odd)
    assert good.result is not None, (good.error, good.log)
    outside = folder.parent / "other.npz"
    outside.write_bytes(made.digits_npz())
    bad = run(folder, {"file": str(outside)}, **odd)
    assert bad.error is not None
    assert "PermissionError" in bad.log


def test_a_child_without_an_expected_protection_opens_nothing(place: tuple[Path, Path]) -> None:
    """Where the trial found a control on, a child in which it is off ends at once, and says what is missing."""
    folder, secret = place
    request = {
        "kind": "inspect_dataset",
        "spec": {"options": OPTIONS},
        "inputs": {"file": str(secret)},
        "limits": {"seconds": 60},
        "expected": confinement.controls_on(confinement.status(folder.parent)),
    }
    (folder / "request.json").write_text(json.dumps(request))
    code = (
        "import sys; from pathlib import Path; from worker.inside import child\n"
        "from worker.sandbox import landlock\n"
        "def denied(*_): raise OSError(36, 'File name too long')\n"
        "landlock.restrict = denied\n"
        "child.KINDS = {}\n"
        "sys.exit(child.main(Path(sys.argv[1])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=60,
        stdin=subprocess.PIPE,
    )
    assert done.returncode == child.UNPROTECTED, done.stderr
    assert json.loads(done.stdout)["confined"]["files"] == "off: [Errno 36] File name too long"
    assert not (folder / "answer.json").exists()


def test_children_have_what_the_trial_had(place: tuple[Path, Path]) -> None:
    """A real child has every control that the trial beside it found on, and does its work."""
    folder, secret = place
    expected = confinement.controls_on(confinement.status(folder.parent))
    outcome = sandbox.run(
        "inspect_dataset",
        {"options": OPTIONS},
        inputs={"file": str(secret)},
        folder=folder,
        limits=Limits(60),
        on_event=lambda event: None,
        on_tick=lambda: None,
        expected=expected,
    )
    assert outcome.unprotected is None
    assert outcome.result is not None


def test_unprotected_work_is_put_off(
    registry: Registry, worker_settings: WorkerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no fault of the upload's and no attempt at it; it waits longer each time, and is done once all is well."""
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
    supervisor.stopping.wait = lambda seconds=None: False  # type: ignore[method-assign]
    for least in (4, 9):
        execute(supervisor, registry, row.id)
        with registry.write() as unit:
            work = unit.work.of(row.id)
            assert (work.state, work.attempts, list(work.losses)) == ("waiting", 0, [])
            assert work.not_before > unit.now() + timedelta(seconds=least)
            assert unit.datasets.get(row.id).status == "inspecting"
            work.not_before = unit.now()
    assert "a new control off: unknown" in caplog.text
    protected = Supervisor(worker_settings, registry, name="x", expected=confinement.controls_on(confinement.status()))
    execute(protected, registry, row.id)
    with registry.read() as unit:
        assert unit.datasets.get(row.id).status == "ready"
