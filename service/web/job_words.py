"""The words for jobs: stages, verdicts, requests and what has happened, as people say them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from pydantic import JsonValue

from fedlas.contract.events import Stage
from fedlas.contract.records import JobRecord
from fedlas.report.number_words import as_sentence, listed
from fedlas.report.summary import VERDICT_TITLES
from service.registry import tables


class StageWords(NamedTuple):
    stage: Stage
    title: str
    happens: str


STAGES = (
    StageWords("inspecting", "Inspect", "model and dataset are read and checked against each other"),
    StageWords("evaluating", "Evaluate", "the uploaded model predicts all rows"),
    StageWords("training", "Train", "candidates are trained and compared on rows that they have not seen"),
    StageWords("calibrating", "Calibrate", "calibrators are fitted and judged on the test rows"),
    StageWords("exporting", "Export", "the calibrated model is written and compared with its network"),
    StageWords("publishing", "Publish", "model and report are stored"),
)
#: A dry run ends here.
_PLANNED = (
    *STAGES[:2],
    StageWords("training", "Plan", "candidates, time and the smallest provable gain are estimated"),
)
#: Classes whose priors a sentence names.
_MAX_PRIORS = 20

_METHODS = {
    "auto": "whichever turns out best",
    "fedlas": "FedLAS",
    "fedlas_plus": "FedLAS+",
    "label_smoothing": "label smoothing",
    "mbls": "margin-based label smoothing",
    "acls": "ACLS",
    "focal": "focal loss",
    "cross_entropy": "cross-entropy",
    "post_hoc": "a calibrator alone",
    "temperature": "a temperature with a uniform mix",
}
SCOPES = {"all": "whole network", "head": "last layers"}
_PUBLISHED = {
    "calibrated": "if anything but the uploaded model is served, or if the name is new",
    "significant": "if it is significantly better than the upload, or if the name is new",
    "always": "whatever the result",
}


class Step(NamedTuple):
    """A stage of a job, and how far the job is with it: `done`, `current`, `failed` or `open`."""

    title: str
    happens: str
    state: str


def steps_of(job: JobRecord) -> tuple[Step, ...]:
    """The stages of a job as steps.

    A job that waits is at none of them; one that was lost goes on where it was.
    """
    planned = _PLANNED if job.dry_run else STAGES
    reached = next((place for place, one in enumerate(planned) if one.stage == job.stage), -1)
    if job.status == "succeeded":
        reached = len(planned)
    here = "failed" if job.status in ("failed", "cancelled") else "current"
    return tuple(
        Step(one.title, one.happens, "done" if place < reached else here if place == reached else "open")
        for place, one in enumerate(planned)
    )


def verdict_of(job: JobRecord | tables.Job) -> str:
    """The model that a job serves, in a few words; empty before there is a verdict."""
    if job.verdict is None:
        return ""
    return f"{VERDICT_TITLES[job.verdict]}{', significantly better than the upload' if job.significant else ''}"


def request_sentences(job: JobRecord) -> list[str]:
    budget, given = job.budget, job.hyperparameters.model_dump(exclude_defaults=True)
    fixed = listed([f"{name.replace('_', ' ')} {value}" for name, value in given.items()])
    score = "NLL" if job.gate.score == "nll" else "Brier scores"
    drop, cost, right = job.gate.max_recall_drop, job.max_cost_factor, job.expected_accuracy
    priors = job.class_priors or {}
    shares = [f"{name} {100 * share:.3g} %" for name, share in islice(priors.items(), _MAX_PRIORS)]
    more = " …" if len(priors) > _MAX_PRIORS else ""
    within = f"within {_counted(budget.minutes, 'minute')} and {_counted(budget.candidates, 'candidate')}"
    sentences = [
        f"The method is {_METHODS[job.method]}, {within}, with seed {job.seed}.",
        f"Fixed: {fixed}." if given else "",
        f"Models are compared by {score} at a confidence of {100 * job.gate.confidence_level:g} %, and "
        f"accuracy may drop by at most {100 * job.gate.max_accuracy_drop:g} points.",
        "" if drop is None else f"No class may lose more than {100 * drop:g} points of recall.",
        "" if cost == "auto" else f"An answer may need at most {cost:g} networks.",
        "" if right is None else f"The uploaded model is expected to be right on {100 * right:g} %.",
        f"Warnings accepted beforehand: {listed(job.accept_warnings)}." if job.accept_warnings else "",
        f"It is published as “{job.publish_as}” {_PUBLISHED[job.publish_when or 'significant']}."
        if job.publish_as
        else "",
        f"Class shares in use: {', '.join(shares)}{more}." if shares else "",
        f"The calibrated file also computes {listed(job.outputs)}." if job.outputs else "",
        "It asks for a GPU." if job.accelerator == "gpu" else "",
        f"When it ends, a message is sent to {job.webhook.url}." if job.webhook else "",
    ]
    return [sentence for sentence in sentences if sentence]


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


#: The job's progress says it better, and there are too many of them.
LEFT_OUT = frozenset({"progress", "epoch"})

_STATUSES = {
    "queued": "Waiting for a worker.",
    "running": "A worker has started.",
    "cancelling": "Stopping at the next heartbeat of its worker.",
    "succeeded": "Succeeded.",
    "failed": "Failed.",
    "cancelled": "Cancelled.",
}
_STAGES: dict[str, str] = {one.stage: f"{one.title}: {one.happens}." for one in STAGES}


class ToldEvent(NamedTuple):
    """An event for people; `tone` is `plain`, `warning` (it looks wrong) or `lost` (a process was lost)."""

    number: int
    at: datetime
    sentence: str
    tone: str


def told(rows: Iterable[tables.Event]) -> list[ToldEvent]:
    """The events of a job that are worth a line, in the order of the rows."""
    return [
        ToldEvent(row.number, row.at, _sentence(row.type, row.data), _TONES.get(row.type, "plain"))
        for row in rows
        if row.type not in LEFT_OUT
    ]


_TONES = {"warning": "warning", "attempt": "lost"}


def _sentence(type_: str, data: Mapping[str, JsonValue]) -> str:
    """One event; what a later release tells is named by its type.

    >>> _sentence("attempt", {"reason": "its worker went silent"})
    'The process was lost: its worker went silent. The job resumes as soon as a worker is free.'
    """
    match type_, data:
        case "status", {"status": str(status)}:
            return _STATUSES.get(status, f"Status: {status}.")
        case "stage", {"stage": str(stage)}:
            return _STAGES.get(stage, f"Stage: {stage}.")
        case "warning", {"message": str(message)}:
            return as_sentence(message)
        case "attempt", {"reason": str(reason)}:
            return f"The process was lost: {reason}. The job resumes as soon as a worker is free."
        case "training", {"candidate": str(candidate), "epochs": epochs, **more}:
            return f"{candidate} starts training {_rows(more)}, {epochs} epochs."
        case "score", {"candidate": str(candidate), "nll": float(nll), **more}:
            return f"{candidate} is scored {_rows(more)}: NLL {nll:.4f}."
        case "candidate", {"name": str(name), "status": str(status)}:
            return _candidate_sentence(name, status, data)
        case "publication", {"name": str(name)}:
            if version := data.get("version"):
                return f"Published as version {version} of “{name}”."
            return f"Not published as “{name}”: {data.get('reason')}."
    return f"{type_}."


def _rows(data: Mapping[str, JsonValue]) -> str:
    fold, folds = data.get("fold"), data.get("folds")
    return "on all rows" if fold is None else f"without fold {fold} of {folds}"


def _candidate_sentence(name: str, status: str, data: Mapping[str, JsonValue]) -> str:
    has = {"finished": "has finished", "diverged": "has diverged"}.get(status, f"was {status}")
    why = f": {data['reason']}" if data.get("reason") else ""
    match data.get("calibration"):
        case {"nll": float(nll)}:
            return f"{name} {has}{why}; its cross-fitted NLL, over all folds together, is {nll:.4f}."
    return f"{name} {has}{why}."
