"""Troubles: what is stuck or broken, and why, in sentences for an operator, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from markupsafe import Markup

from service.api.health import Outcome
from service.registry.contract import ANY_DEVICE, GPU_ONLY
from service.web.disk import Disk
from service.web.operations_view import Operations, counted
from service.web.rendering import duration, size

#: Due work that nobody takes for so long, although a worker for it lives and has nothing of its queue, is stuck.
_PATIENCE_S = 30.0
_DEPENDENCIES = {
    "database": (
        "The database does not answer",
        "Every request that reads records is refused until it does; work that runs goes on for a while.",
    ),
    "broker": (
        "The broker does not answer",
        "Nothing is lost: workers find open work by themselves, within a second, though no message tells them.",
    ),
    "storage": (
        "Stored files cannot be reached",
        "Uploads and new models fail until they can; models that are open go on predicting.",
    ),
    "serving": (
        "Predictions have no process that answers them",
        "It is started again by itself, within a second; the log says why it has ended.",
    ),
}


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong: a sentence, what to do or to expect, and the records it is about.

    Attributes:
        severe: it keeps work from being done; else it mends itself, or only takes longer.
    """

    sentence: str | Markup
    remedy: str
    severe: bool = True
    records: Sequence[str] = field(default=())


def troubles(found: Operations | None, health: Sequence[Outcome], disk: Disk) -> list[Trouble]:
    """All of them, the severe ones first."""
    everything = [*_of_health(health), *_of_disk(disk)]
    if found is not None:
        everything += [*_of_queues(found), *_of_leases(found), *_of_returned(found), *_of_models(found)]
        everything += _of_releases(found)
    return sorted(everything, key=lambda one: not one.severe)


def _of_health(health: Sequence[Outcome]) -> Iterator[Trouble]:
    for one in health:
        if one.error is not None:
            sentence, remedy = _DEPENDENCIES[one.name]
            yield Trouble(f"{sentence} ({one.error}).", remedy, severe=one.name != "broker")


def _of_disk(disk: Disk) -> Iterator[Trouble]:
    if disk.is_short:
        yield Trouble(
            f"The disk of the data folder has {size(disk.free)} left of {size(disk.total)}.",
            "Make room: uploads, jobs and the database need it.",
        )


def _of_queues(found: Operations) -> Iterator[Trouble]:
    busy = {one.queue for one in found.held}
    if GPU_ONLY in busy:  # perhaps by a worker that takes other work only after that
        busy.add(ANY_DEVICE)
    for line in found.queue_lines():
        if line.due and (obstacle := found.obstacles[line.queue]):
            yield Trouble(
                f"{line.words}: {obstacle}.",
                "Start one (`python -m worker`), or look why the last one has ended or stands still.",
            )
        for one in found.waiting if line.workers and line.queue not in busy else ():
            if one.queue != line.queue or one.due_since is None:
                continue
            if (seconds := found.seconds_since(one.due_since)) > _PATIENCE_S:
                yield Trouble(
                    f"{counted(one.due, one.kind)} could have been taken for {duration(seconds)}, and nobody does.",
                    "A worker lives that takes such work: look into its log, and whether all its threads are busy.",
                )


def _of_leases(found: Operations) -> Iterator[Trouble]:
    for one in found.held:
        late = found.seconds_since(one.lease_expires_at or found.now)
        if late <= 0:
            continue
        yield Trouble(
            f"{counted(1, one.kind)} is held by a worker whose lease ended {duration(late)} ago.",
            "Any living worker takes it over and goes on from its last checkpoint.",
            severe=not any(worker.lives for worker in found.workers),
            records=[one.record_id],
        )


def _of_returned(found: Operations) -> Iterator[Trouble]:
    for one in found.returned:
        why = f": {one.reason}" if one.reason else ""
        lost = f"lost its process {one.losses} times in a row" if one.losses > 1 else "was given back"
        wait = -found.seconds_since(one.not_before)
        yield Trouble(
            f"{counted(1, one.kind)} {lost}{why}.",
            f"It is tried again in {duration(wait)}." if wait > 0 else "It is tried again by the next free worker.",
            severe=False,
            records=[one.record_id],
        )


def _of_models(found: Operations) -> Iterator[Trouble]:
    for one in found.suspended:
        yield Trouble(
            _naming("The model “{}” is out of service for another {}.", one.name, duration(one.seconds)),
            "A run of it has ended its process: it crashed, took too much memory or did not come back in its time. "
            "Requests are answered 503 `model_suspended`; look at the rows that were sent.",
            records=[one.model_id],
        )


def _of_releases(found: Operations) -> Iterator[Trouble]:
    ours = version("fedlas")
    for worker in found.workers:
        if worker.lives and worker.row.release not in (None, ours):
            yield Trouble(
                _naming("The worker “{}” is release {}, this service {}.", worker.row.name, worker.row.release, ours),
                "Expected while a new release is rolled out; update it otherwise.",
                severe=False,
            )


def _naming(sentence: str, name: str, *others: object) -> Markup:
    """A sentence with a name that others chose: it turns nothing around that stands beside it."""
    return Markup(sentence).format(Markup("<bdi>{}</bdi>").format(name), *others)
