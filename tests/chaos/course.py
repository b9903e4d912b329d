"""The course of a run: undisturbed first, then the storm, then quiet, then a look at everything, then the table."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.chaos import evidence as look
from tests.chaos.clock import find_library
from tests.chaos.customers import Caller, begin, predict, serve
from tests.chaos.disk import mounted
from tests.chaos.evidence import Evidence
from tests.chaos.faults import ORPHAN_GRACE_S
from tests.chaos.orders import COMPARED, PREDICTED, batch, order, some_digits, unlabelled_digits
from tests.chaos.receiver import Receiver
from tests.chaos.site import ALONE, SPREAD, SWEEP_GRACE_S, Shared, Site, opened
from tests.chaos.storm import Plan, Run
from tests.chaos.table import table
from tests.chaos.verdict import lines
from tests.chaos.watch import Watch
from tests.helpers import Json
from tests.helpers.servers import PostgreSQL, Redis, program, running
from tests.helpers.uploads import digits_model, digits_npz

Say = Callable[[str], None]

_REFERENCE_S = 300.0
#: The third attempt of a message comes five minutes after the second.
_WEBHOOK_S = 400.0


def run(folder: Path, plan: Plan, say: Say) -> bool:
    """All of it; returns whether every promise was kept. What explains a broken one is left in the folder."""
    say(f"seed {plan.seed}, {plan.jobs} jobs, {plan.faults} faults, in {folder}")
    with ExitStack() as stack:
        postgresql, redis = stack.enter_context(running(PostgreSQL)), stack.enter_context(running(Redis))
        found = Evidence()
        _undisturbed(folder, plan, found, postgresql, redis, say)
        disk = stack.enter_context(mounted(folder / "disk"))
        receiver = stack.enter_context(Receiver())
        site = stack.enter_context(
            opened(
                folder / "site", artifacts=folder / "disk" / "artifacts", postgresql=postgresql, redis=redis,
                number=2, apis=2, heavy=2, light=2, settings=SPREAD, library=find_library(),
            )
        )  # fmt: skip
        with Watch(site) as watch:
            shared = replace(_shared_uploads(site), predicted=found.predicted)
            storm = Run(site, disk, receiver, watch, plan, shared, say=say)
            storm.strike()
            storm.heal()
        _settle(storm, found)
        _examine(storm, found)
        forced = site.stop()
        found.left = _after(ORPHAN_GRACE_S, lambda: list(look.processes_of(site.folder).values()))
        storm.violations += [f"{name} did not end when it was asked to" for name in forced]
        promises = lines(found)
        say(table(storm, promises))
        kept = not storm.violations and not any(line.broken for line in promises)
        if not kept:
            _keep(folder, site)
        return kept


def _undisturbed(folder: Path, plan: Plan, found: Evidence, postgresql: PostgreSQL, redis: Redis, say: Say) -> None:
    """The results of the first orders and a batch where nothing happens, and each is done by one worker alone."""
    with opened(
        folder / "undisturbed", artifacts=folder / "undisturbed-artifacts", postgresql=postgresql, redis=redis,
        number=1, apis=1, heavy=2, light=1, settings=ALONE,
    ) as site:  # fmt: skip
        shared = _shared_uploads(site)
        orders, rows = [order(number, seed=plan.seed) for number in range(min(COMPARED, plan.jobs))], batch(0)
        customers = [Caller(site.urls, Counter(), until=time.monotonic() + _REFERENCE_S) for _ in (*orders, rows)]
        threads = [begin(predict, rows, customers.pop(), model_id=shared.model_id, rows_id=shared.rows_id)]
        place = {"model_id": shared.model_id, "dataset_id": shared.dataset_id, "hook": None}
        threads += [begin(serve, one, caller, **place) for one, caller in zip(orders, customers, strict=True)]
        for thread in threads:
            thread.join(_REFERENCE_S)
        found.predicted = _predicted(site, shared)
    missing = [(one.complaints, one.record) for one in orders if one.report is None]
    assert not missing, f"not even undisturbed: {missing}"
    assert rows.answers is not None, f"not even undisturbed: {rows.complaints} {rows.record}"
    say(f"undisturbed: {len(orders)} reports and {len(rows.answers.splitlines())} answers to compare with")
    found.references = {one.number: one.report for one in orders if one.report is not None}
    found.answers = rows.answers


def _predicted(site: Site, shared: Shared) -> list[Json]:
    """The answers of the predict door for the first rows of all batches."""
    caller = Caller(site.urls, Counter(), until=time.monotonic() + _REFERENCE_S)
    predictions = caller.predict(shared.model_id, some_digits(PREDICTED))
    caller.close()
    return predictions


def _shared_uploads(site: Site) -> Shared:
    """The model of all customers, the dataset of most orders and the rows of all batches, ready."""
    caller = Caller(site.urls, Counter(), until=time.monotonic() + _REFERENCE_S)
    shared = Shared(
        model_id=caller.create("models", "model", content=digits_model()).record_id,
        dataset_id=caller.create("datasets", "dataset", content=digits_npz()).record_id,
        rows_id=caller.create("datasets", "rows", content=unlabelled_digits(), params={"purpose": "predict"}).record_id,
    )
    for place in (f"models/{shared.model_id}", f"datasets/{shared.dataset_id}", f"datasets/{shared.rows_id}"):
        record = caller.get(f"/v1/{place}", wait=60)
        assert record["status"] == "ready", record
    caller.close()
    return shared


def _settle(storm: Run, found: Evidence) -> None:
    """One part of each kind is started again, then time for messages, sweeper and children: all of it must come."""
    storm.say("restarts in order")
    for part in (storm.site.apis[0], storm.site.heavy[0], storm.site.light[0]):
        part.end()
        storm.wait(60, or_until=lambda part=part: not part.is_running)  # type: ignore[misc]
        storm.wait(60, or_until=storm.site.is_ready)
    numbers = [one.number for one in storm.orders if one.record]
    storm.say("waiting for the last messages and the sweeper")
    storm.wait(_WEBHOOK_S, or_until=lambda: all(storm.receiver.took(number) for number in numbers))

    def swept() -> bool:
        look.rows_of(storm.site, found)
        look.files_of(storm.site, found)
        return not found.strays and set(found.stored) <= set(found.owned)

    storm.wait(SWEEP_GRACE_S + 30, or_until=swept)
    found.orphans = _after(ORPHAN_GRACE_S, lambda: look.orphans_of(storm.site))


def _examine(storm: Run, found: Evidence) -> None:
    """Look at everything while it still runs."""
    caller = Caller(storm.site.urls, Counter(), until=time.monotonic() + 120)
    found.orders, found.visits, found.batches = storm.orders, storm.visits, storm.batches
    found.delivered, found.seen = storm.receiver.received, storm.watch.seen
    found.replayed = look.replay(caller, [one for customer in storm.customers for one in customer.acknowledged])
    look.records_of(caller, [*storm.orders, *storm.batches])
    look.rows_of(storm.site, found)
    look.files_of(storm.site, found)
    caller.close()


def _after(seconds: float, ask: Callable[[], list[str]]) -> list[str]:
    """The complaints that still hold after a while."""
    deadline = time.monotonic() + seconds
    while (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def _keep(folder: Path, site: Site) -> None:
    """The disk is about to be unmounted and the database to go: their content stays."""
    shutil.copytree(site.artifacts, folder / "artifacts")
    with (folder / "registry.sql").open("wb") as file:
        dump = [program("pg_dump"), "-h", "127.0.0.1", "-p", str(site.postgresql.port), "-U", "fedlas", site.database]
        subprocess.run(dump, stdout=file, check=True)
