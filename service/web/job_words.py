"""The words for jobs: stages, verdicts and orders as people say them."""

from __future__ import annotations

from typing import NamedTuple

from fedlas.report.wording import listed
from service.registry.contract import JobRecord
from service.registry.documents import Stage


class StageWords(NamedTuple):
    """A stage by its name, and what happens in it."""

    stage: Stage
    title: str
    happens: str


STAGES = (
    StageWords("inspecting", "Inspect", "model and dataset are read, and checked to fit each other"),
    StageWords("evaluating", "Evaluate", "the uploaded model answers all rows"),
    StageWords("training", "Race", "candidates train, and rows that each has not seen compare them"),
    StageWords("calibrating", "Calibrate", "calibrators are fitted, and the test rows judge"),
    StageWords("exporting", "Export", "the calibrated model is written and compared with its network"),
    StageWords("publishing", "Publish", "model and report are stored"),
)
#: A dry run ends here.
_PLANNED = STAGES[:3]

_VERDICTS = {
    "trained": "Fine-tuned model served",
    "post_hoc": "Calibrator served",
    "unchanged": "Nothing changed",
    "undetermined": "Undetermined",
}
_METHODS = {
    "auto": "whatever turns out best",
    "fedlas": "FedLAS",
    "fedlas_plus": "FedLAS+",
    "label_smoothing": "label smoothing",
    "mbls": "margin-based label smoothing",
    "acls": "ACLS",
    "focal": "focal loss",
    "cross_entropy": "cross-entropy",
    "post_hoc": "a calibrator alone",
    "temperature": "a temperature with a share of doubt",
}
SCOPES = {"all": "whole network", "head": "last layers"}
_PUBLISHED = {
    "promoted": "where something else than the uploaded model is to be served, or the name is new",
    "shown": "where the test rows show it to be better, or the name is new",
    "always": "whatever comes out",
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


def verdict_in_words(job: JobRecord) -> str:
    """What is served from now on, in a few words; empty before there is a verdict."""
    if job.verdict is None:
        return ""
    return f"{_VERDICTS[job.verdict]}{', shown to be better' if job.shown else ''}"


def order_sentences(job: JobRecord) -> list[str]:
    """What was ordered, as sentences."""
    budget, given = job.budget, job.hyperparameters.model_dump(exclude_defaults=True)
    within = f"within {_counted(budget.minutes, 'minute')} and {_counted(budget.candidates, 'candidate')}"
    found = [
        f"The method is {_METHODS[job.method]}, {within}, with seed {job.seed}.",
        f"Fixed are {listed([_setting(name, value) for name, value in given.items()])}." if given else "",
        f"The gate compares {_SCORES[job.gate.score]} at a confidence of {100 * job.gate.confidence_level:g} %, and "
        f"lets accuracy drop by at most {100 * job.gate.max_accuracy_drop:g} points.",
        _recall_sentence(job.gate.max_recall_drop),
        _cost_sentence(job.max_cost_factor),
        _accuracy_sentence(job.expected_accuracy),
        f"Warnings that do not end it: {listed(job.accept_warnings)}." if job.accept_warnings else "",
        f"It is published as “{job.publish_as}” {_PUBLISHED[job.publish_when or 'shown']}." if job.publish_as else "",
        _priors_sentence(job.class_priors),
        "It waits for a worker with a GPU." if job.accelerator == "gpu" else "",
        f"Its end is told to {job.webhook.url}." if job.webhook else "",
    ]
    return [sentence for sentence in found if sentence]


_SCORES = {"brier": "Brier scores", "nll": "NLL"}


def _recall_sentence(drop: float | None) -> str:
    return "" if drop is None else f"No class may lose more than {100 * drop:g} points of recall."


def _cost_sentence(factor: float | str) -> str:
    return "" if factor == "auto" else f"An answer may cost at most {factor:g} times that of the uploaded model."


def _accuracy_sentence(accuracy: float | None) -> str:
    return "" if accuracy is None else f"The uploaded model is expected to be right on {100 * accuracy:g} %."


def _priors_sentence(priors: dict[str, float] | None) -> str:
    if priors is None:
        return ""
    shown = [f"{name} {100 * share:.3g} %" for name, share in list(priors.items())[:20]]
    return f"Where it is used, classes occur as follows: {', '.join(shown)}{' …' if len(priors) > 20 else ''}."


def _setting(name: str, value: object) -> str:
    return f"{name.replace('_', ' ')} {value}"


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
