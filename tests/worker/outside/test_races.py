"""A race over several workers, on a real registry: who trains what, what is lost with a worker, and who goes on."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.registry.contract import ANY_DEVICE
from service.registry.errors import LeaseLost, Unavailable, WorkGone
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim, ClaimLimits, Due
from service.settings import ServiceSettings
from tests.helpers.processes import until
from tests.helpers.scripted_race import NAMES, ScriptedChild, add_race, epoch, offers, outcome_of
from tests.helpers.staging import stage_bytes
from tests.helpers.work import reaper_of
from worker.documents import EndReply, GoOnReply, TrainReply
from worker.outside import supervisor as supervisors
from worker.outside.kinds import kind_of
from worker.outside.kinds.base import Claimant, PieceFailed, Suspended
from worker.outside.kinds.calibration import Calibrate
from worker.outside.kinds.candidates import Candidate
from worker.outside.supervisor import Supervisor
from worker.outside.versions import race_versions
from worker.settings import WorkerSettings

LIMITS = ClaimLimits(versions=race_versions())
LONG = 120


class Killed(BaseException):
    """What a test raises in a child's tick: the worker settles nothing more."""


@pytest.fixture
def worker_settings(settings: ServiceSettings) -> WorkerSettings:
    """Workers in a hurry, on the same registry."""
    place = settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"})
    return WorkerSettings(**place, heartbeat_seconds=0.1, lease_seconds=30)


class Bench:
    """Workers that take work until the test ends, and what a test sees of a race.

    Attributes:
        child: of all workers.
    """

    def __init__(self, registry: Registry, settings: WorkerSettings) -> None:
        self.registry, self.settings = registry, settings
        self.child = ScriptedChild()
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, name: str) -> None:
        """A worker begins."""
        worker = threading.Thread(target=self._work, args=(name,), name=name)
        self.threads.append(worker)
        worker.start()

    def _work(self, name: str) -> None:
        supervisor = Supervisor(self.settings, self.registry, name=name, stopping=self.stop)
        with suppress(Killed):
            while not self.stop.is_set():
                if (claim := self.claim(name)) is None:
                    time.sleep(0.02)
                else:
                    supervisor.execute(claim)

    def claim(self, name: str) -> Claim | None:
        """What is due for this worker; nothing where a busy machine let the transaction take too long."""
        with suppress(Unavailable), self.registry.write() as unit:
            return unit.work.claim_next(ANY_DEVICE, LIMITS, worker=name, lease_seconds=30)
        return None

    def begun(self, name: str) -> Any:
        """What is due, begun by hand."""
        claim = self.claim(name)
        assert claim is not None
        work = kind_of(claim)(self.registry, self.settings, claim)
        work.claimant = Claimant(name, lambda queue: LIMITS, lambda claim: None)
        assert work.begin() is not None
        return work

    def save(self, work: Any, name: str, content: bytes) -> None:
        """The child has saved an entry, and it is uploaded."""
        with stage_bytes(self.registry.artifacts, content) as file, self.registry.write() as unit:
            unit.after_commit.unreferenced += work.save_checkpoint(unit, name, file)

    def release(self, name: str) -> None:
        """It is noticed that this worker is gone."""
        with self.registry.write() as unit:
            for record_id in unit.work.release_held_by([name], "its worker died"):
                unit.requeue(record_id, "its worker died")

    def status(self, job_id: str) -> tuple[str, str]:
        """Of the job and its work."""
        with self.registry.read() as unit:
            return unit.jobs.get(job_id).status, unit.work.of(job_id).state

    def pieces(self, job_id: str) -> dict[str, str]:
        """The status of each training."""
        with self.registry.read() as unit:
            return {piece.name: piece.status for piece in unit.pieces.of(job_id)}

    def ended(self, job_id: str) -> None:
        """The race is over, in the script's way; nothing of it is left."""
        until(lambda: self.status(job_id) == ("failed", "done"), seconds=LONG, what="the race is over")
        with self.registry.read() as unit:
            row = unit.jobs.get(job_id)
            assert row.error is not None
            assert row.error["code"] == "enough", row.error
            assert (unit.pieces.of(job_id), unit.checkpoints.of(job_id)) == ([], {})
            told = [event.data for event in unit.events.of_types(job_id, ["epoch"])]
            reached = [event.data["fraction"] for event in unit.events.of_types(job_id, ["progress"])]
        places = [(line["number"], line["epoch"]) for line in told]
        assert sorted(places) == [(number, one) for number in range(1, len(NAMES) + 1) for one in (1, 2)]
        assert reached == sorted(reached)
        assert row.progress["fraction"] == pytest.approx(0.2 * len(NAMES))
        self.nothing_else_is_stored()

    def nothing_else_is_stored(self) -> None:
        """Soon there is nothing left but model and dataset."""
        inputs = {hashlib.sha256(content).hexdigest() for content in (b"m", b"d", b"p")}
        stored = self.registry.artifacts.listed
        until(
            lambda: {file.digest for file in stored(limit=100)} <= inputs, seconds=LONG, what="nothing else is stored"
        )


@pytest.fixture
def bench(registry: Registry, worker_settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose workers end with the test."""
    bench = Bench(registry, worker_settings)
    monkeypatch.setattr(supervisors.sandbox, "run", lambda *given, **named: bench.child(*given, **named))
    yield bench
    bench.stop.set()
    for thread in bench.threads:
        thread.join(LONG)


def worker() -> str:
    """The name of the worker that runs this."""
    return threading.current_thread().name


def waits_for(met: Callable[[], object]) -> Callable[[Callable[[], None]], None]:
    """A child's training that lasts until something is met."""

    def wait(tick: Callable[[], None]) -> None:
        deadline = time.monotonic() + LONG
        while not met():
            tick()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return wait


def test_a_race_is_run_by_all_who_come(bench: Bench) -> None:
    """Two workers train side by side, each what the other does not; the leader gets the outcomes of the other.

    Every epoch is an event once, progress never falls, and nothing is left when the job has ended.
    """
    by: dict[str, set[str]] = {"a": set(), "b": set()}

    def on_training(name: str, tick: Callable[[], None]) -> None:
        by[worker()].add(name)
        waits_for(lambda: by["a"] and by["b"])(tick)

    bench.child = ScriptedChild(on_training)
    job_id = add_race(bench.registry)
    bench.start("a")
    bench.start("b")
    bench.ended(job_id)
    assert by["a"] | by["b"] == set(NAMES)
    assert sorted(bench.child.trained) == sorted(NAMES)
    assert {} in bench.child.given[:-1]  # no training had been begun before
    (leader,) = [name for name in by if {*bench.child.given[-1]} == set(NAMES) - by[name]]
    assert bench.child.given[-1] == {name: outcome_of(name) for name in set(NAMES) - by[leader]}


@pytest.mark.parametrize("victim", ["helper", "leader"])
def test_what_a_killed_worker_did_goes_on_elsewhere(bench: Bench, victim: str) -> None:
    """A worker is killed in the middle of a training: another goes on with what it has saved, and the race ends well.

    Where it led the race another leads it, from the entries of those that are done.
    """
    job_id, half = add_race(bench.registry), threading.Event()
    lost: list[str] = []

    def is_saved(name: str) -> bool:
        with bench.registry.read() as unit:
            piece = next(piece for piece in unit.pieces.of(job_id) if piece.name == name)
            return "running" in unit.checkpoints.of(piece.id)

    def on_training(name: str, tick: Callable[[], None]) -> None:
        if worker() == "victim" and len(bench.child.trained) >= 1:
            waits_for(lambda: is_saved(name))(tick)
            lost.append(name)
            half.set()
            raise Killed
        if worker() == "other":  # both take part
            waits_for(half.is_set)(tick)

    bench.child = ScriptedChild(on_training)
    first, second = ("victim", "other") if victim == "leader" else ("other", "victim")
    bench.start(first)
    until(lambda: bench.pieces(job_id), seconds=LONG, what="the rung is offered")
    bench.start(second)
    until(half.is_set, seconds=LONG, what="one is killed")
    bench.threads[0 if victim == "leader" else 1].join(LONG)
    bench.release("victim")
    bench.ended(job_id)
    assert {"running": f"half of {lost[0]}".encode()} in bench.child.given
    assert sorted(bench.child.trained) == sorted(NAMES)


def test_a_leader_lets_others_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader with nothing to train waits, and writes nothing meanwhile; where another job is due its child ends, and
    the last finisher goes on.
    """
    job_id = add_race(bench.registry)
    leader = bench.begun("a")
    assert isinstance(leader, Calibrate)
    journal = Path(bench.settings.data_dir) / "journal"
    journal.mkdir(parents=True)
    for event in offers(NAMES[:2]):
        leader.note(event)
    first = leader.reply(journal)
    assert isinstance(first, TrainReply)
    helper = bench.begun("b")
    assert isinstance(helper, Candidate)
    second = helper.reply(journal)
    assert isinstance(second, TrainReply)
    assert [first.name, second.name] == list(NAMES[:2])
    bench.save(leader, first.name, outcome_of(first.name))
    leader.note({"asks": "training"})
    with monkeypatch.context() as reading:
        reading.setattr(bench.registry, "write", lambda: 1 / 0)
        assert leader.reply(journal) is None  # nothing else is due: it looks again
    add_race(bench.registry)
    with pytest.raises(Suspended):
        leader.reply(journal)
    assert bench.status(job_id) == ("running", "blocked")
    helper.note(epoch(second.name, 1))
    bench.save(helper, second.name, outcome_of(second.name))
    helper.note({"asks": "training"})
    assert isinstance(helper.reply(journal), EndReply)
    with bench.registry.read() as unit:
        work = unit.work.of(job_id)
        assert (work.state, work.attempts, work.losses) == ("waiting", 0, [])
    again = bench.begun("c")
    assert again.record_id == job_id
    assert set(again._checkpoints) == set(NAMES[:2])
    for event in offers(NAMES[:2]):
        again.note(event)
    assert again.reply(journal) == GoOnReply()


def test_the_last_finisher_and_a_leader_that_suspends_meet(bench: Bench) -> None:
    """Whichever comes first, the leader goes on: it is told so, or its work waits to be claimed."""
    journal = Path(bench.settings.data_dir) / "journal"
    journal.mkdir(parents=True)
    for _ in range(5):
        job_id = add_race(bench.registry)
        leader = bench.begun("a")
        for event in offers(NAMES[:1]):
            leader.note(event)
        with bench.registry.write() as unit:
            leader._offered(unit)
        helper = bench.begun("b")
        helper.reply(journal)
        other_id = add_race(bench.registry)
        ends = threading.Thread(target=bench.save, args=(helper, NAMES[0], b"outcome"))
        ends.start()
        try:
            reply = leader.reply(journal)
            while reply is None:
                reply = leader.reply(journal)
            assert isinstance(reply, GoOnReply)
            with bench.registry.write() as unit:
                leader.cancelled(unit)
            ends.join(LONG)
        except Suspended:
            ends.join(LONG)
            assert bench.status(job_id) == ("running", "waiting")
            with bench.registry.write() as unit:
                unit.work.withdraw(job_id)
                unit.jobs.change_status(unit.jobs.get(job_id), "cancelled")
        with bench.registry.write() as unit:
            unit.work.withdraw(other_id)


def test_an_outcome_and_the_end_of_its_job_meet(bench: Bench) -> None:
    """Of a training that ends beside its job nothing is left, whichever comes first."""
    journal = Path(bench.settings.data_dir) / "journal"
    journal.mkdir(parents=True)
    for number in range(4):
        job_id = add_race(bench.registry)
        leader = bench.begun("a")
        for event in offers(NAMES[:2]):
            leader.note(event)
        leader.reply(journal)
        helper = bench.begun("b")
        helper.reply(journal)

        def ends(of: Any = helper, at: int = number) -> None:
            with suppress(LeaseLost):
                bench.save(of, "running", b"half %d" % at)
                bench.save(of, NAMES[1], b"outcome %d" % at)

        other = threading.Thread(target=ends)
        other.start()
        with bench.registry.write() as unit:
            leader.cancelled(unit)
        other.join(LONG)
        with bench.registry.read() as unit:
            assert (unit.jobs.get(job_id).status, unit.work.of(job_id).state) == ("cancelled", "done")
            assert unit.work.next_due(ANY_DEVICE, LIMITS) is None
            assert (unit.pieces.of(job_id), unit.checkpoints.of(helper.held.piece_id)) == ([], {})


def test_a_training_that_always_dies_fails_its_job(bench: Bench) -> None:
    """A training that loses its process again and again is given up, and its job fails with the reasons."""
    settings = bench.settings
    bench.settings = settings.model_copy(update={"max_attempts": 2})

    def on_training(name: str, tick: Callable[[], None]) -> str | None:
        return "signal 9" if name == NAMES[1] else None

    bench.child = ScriptedChild(on_training)
    job_id = add_race(bench.registry)
    bench.start("a")

    def failed() -> bool:
        # Nobody waits for the pauses between attempts.
        with suppress(Unavailable), bench.registry.write() as unit:
            for piece in unit.pieces.of(job_id):
                unit.work.of(piece.id).not_before = unit.now()
            unit.work.of(job_id).not_before = unit.now()
        return bench.status(job_id) == ("failed", "done")

    until(failed, seconds=LONG, what="the job fails")
    with bench.registry.read() as unit:
        error = unit.jobs.get(job_id).error
    assert error is not None
    assert (error["code"], "signal 9" in error["message"]) == ("poisoned", True)


def test_versions_are_kept_apart(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No worker of other versions is given a training, one that claims it nevertheless hands it back, and one that
    takes over the lead begins the race again."""
    job_id = add_race(bench.registry)
    leader = bench.begun("a")
    for event in offers(NAMES[:2]):
        leader.note(event)
    assert isinstance(leader.reply(tmp_path / "journal"), TrainReply)
    bench.save(leader, NAMES[0], outcome_of(NAMES[0]))
    with bench.registry.write() as unit:
        others = ClaimLimits(versions="fedlas 9, entries 9, torch 9")
        assert unit.work.claim_next(ANY_DEVICE, others, worker="b", lease_seconds=30) is None
        claim = unit.work.claim_next(ANY_DEVICE, LIMITS, worker="b", lease_seconds=30)
    assert claim is not None
    for module in ("candidates", "calibration"):
        monkeypatch.setattr(f"worker.outside.kinds.{module}.race_versions", lambda: others.versions)
    assert kind_of(claim)(bench.registry, bench.settings, claim).begin() is None
    with bench.registry.write() as unit:
        work = unit.work.of(claim.record_id)
        assert (work.state, work.attempts, work.losses) == ("waiting", 0, [])
        leader.handed_back(unit, "its worker was stopped")
    assert set(bench.pieces(job_id)) == set(NAMES[:2])
    with bench.registry.write() as unit:
        assert unit.work.claim_next(ANY_DEVICE, others, worker="b", lease_seconds=30) is None, "the lead is theirs, too"
        assert unit.pieces.unattended(versions=race_versions(), for_seconds=-1) == []
        assert unit.pieces.unattended(versions="fedlas 9", for_seconds=-1) == [job_id]
        unit.work.open_to_all([job_id])
        assert unit.work.next_due(ANY_DEVICE, others) == Due(job_id, "calibrate", job_id)
    begun = bench.begun("b")
    assert (begun.job_id, begun._checkpoints, bench.pieces(job_id)) == (job_id, {}, {})


def test_a_race_whose_workers_are_gone_is_not_waited_for(bench: Bench, tmp_path: Path) -> None:
    """Where nobody has taken trainings for long, perhaps since no worker of their versions is left, workers of others
    open their suspended leader again, which is due from then on; not while somebody is at one, nor if it was suspended
    only just now.
    """
    job_id = add_race(bench.registry)
    leader = bench.begun("a")
    for event in offers(NAMES[:2]):
        leader.note(event)
    leader.reply(tmp_path / "journal")

    def unattended(unit: UnitOfWork, for_seconds: float, versions: str = "fedlas 9") -> list[str]:
        return list(unit.pieces.unattended(versions=versions, for_seconds=for_seconds))

    with bench.registry.write() as unit:
        unit.pieces.suspend_parent(leader.claim)
        assert unattended(unit, -1) == []
        unit.work.release(leader.held.claim)
    with bench.registry.write() as unit:
        assert (unattended(unit, -1), unattended(unit, -1, race_versions())) == ([job_id], [])
        long_ago = unit.now() - timedelta(seconds=601)
        unit.work.of(leader.held.piece_id).not_before = long_ago
        assert unattended(unit, 600) == []
        unit.work.of(job_id).not_before = long_ago
        assert unattended(unit, 600) == [job_id]
    reaper_of(bench.registry, bench.settings).sweep()
    with bench.registry.read() as unit:
        assert unit.work.next_due(ANY_DEVICE) == Due(job_id, "calibrate", job_id)
        assert unit.work_overview.open_work()[ANY_DEVICE, "calibrate"].oldest_seconds < 600


def test_who_has_lost_a_training_writes_nothing_of_it(bench: Bench, tmp_path: Path) -> None:
    """A training that another worker has taken over is that worker's; the leader keeps its own outcome for itself.

    A job that ends takes its trainings away from all.
    """
    job_id = add_race(bench.registry)
    leader = bench.begun("a")
    for event in offers(NAMES[:2]):
        leader.note(event)
    leader.reply(tmp_path / "journal")
    helper = bench.begun("b")
    helper.reply(tmp_path / "journal")
    with bench.registry.write() as unit:
        unit.work.release_held_by(["b"], "its worker died")
        for work in (unit.work.of(leader.held.piece_id),):
            work.state, work.worker, work.token = "claimed", "c", work.token + 1
    with pytest.raises(LeaseLost):
        bench.save(helper, NAMES[1], b"of the one that was gone")
    bench.save(leader, NAMES[0], outcome_of(NAMES[0]))
    with bench.registry.write() as unit:
        leader.renew(unit, lease_seconds=30)
        assert list(unit.checkpoints.of(job_id)) == [NAMES[0]]
    assert set(bench.pieces(job_id).values()) == {"waiting"}
    again = bench.begun("d")
    assert again.held.name == NAMES[1]
    with bench.registry.write() as unit:
        leader.cancelled(unit)
    with pytest.raises(WorkGone), bench.registry.write() as unit:
        again.renew(unit, lease_seconds=30)


def test_what_a_child_offers_is_bounded(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name that would pass for another entry, no flood, and nothing from a child that does not lead; an outcome
    that was not kept is an attempt that was lost."""
    monkeypatch.setattr("worker.outside.kinds.calibration._MOST_TRAININGS", 3)
    job_id = add_race(bench.registry)
    leader = bench.begun("a")
    hostile = [dict(offers()[0]["offer"], name=name) for name in ("running", "../x", "a" * 65, 7)]
    for event in [*({"offer": one} for one in hostile), *offers(), *offers(["candidate-09-10-fold-1"])]:
        leader.note(event)
    reply = leader.reply(tmp_path / "journal")
    assert isinstance(reply, TrainReply)
    assert set(bench.pieces(job_id)) == set(NAMES[:3])
    leader._offers = 0  # as in another attempt
    for event in [*offers(["candidate-09-10-fold-1"]), {"asks": "training"}]:  # without an outcome
        leader.note(event)
    following = leader.reply(tmp_path / "journal")
    assert isinstance(following, TrainReply)
    assert following.name == NAMES[0]
    with bench.registry.read() as unit:
        losses = unit.work.of(leader.held.piece_id).losses
    assert losses == ["its outcome was not kept"]
    helper = bench.begun("b")
    for event in offers(["candidate-08-10-fold-1"]):
        helper.note(event)
    helper.reply(tmp_path / "journal")
    assert set(bench.pieces(job_id)) == set(NAMES[:3])
    with bench.registry.write() as unit:
        unit.pieces.fail(helper.held.piece_id, {"code": "poisoned", "message": "m", "user_error": False})
    leader.note({"asks": "training"})
    with pytest.raises(PieceFailed):
        leader.reply(tmp_path / "journal")
