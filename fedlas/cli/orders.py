"""Orders: what the options of `fedlas calibrate` ask for, as the fields of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlas.cli.failures import CommandError
from fedlas.cli.options import minutes_of, object_of, pairs_of, roles_of


@dataclass(frozen=True)
class Order:
    """What is to be done, and how the two files are to be read.

    Attributes:
        fields: of `POST /v1/jobs`, without model and dataset; only what was asked for.
        model_option, dataset_option: `KEY=VALUE` parameters of the two uploads.
        reading: parameters of the dataset's that have options of their own.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    model_option: Sequence[str] = ()
    dataset_option: Sequence[str] = ()
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        budget: str | None,
        candidates: int | None,
        metadata: Sequence[str] | None,
        class_priors: str | None,
        job: str | None,
        model_option: Sequence[str] | None,
        dataset_option: Sequence[str] | None,
        role: Sequence[str] | None,
        seen_by_model: str | None,
        **fields: Any,
    ) -> Order:
        """What the command line says."""
        given = {} if job is None else object_of(job, "--job")
        limits = {"minutes": None if budget is None else minutes_of(budget), "candidates": candidates}
        said = {
            **fields,
            "budget": {**_budget_of(given.get("budget")), **_given(limits)} or None,
            "class_priors": None if class_priors is None else object_of(class_priors, "--class-priors"),
            "metadata": pairs_of(metadata, "--metadata") or None,
        }
        reading = {"roles": roles_of(role), "seen_by_model": seen_by_model}
        return cls({**given, **_given(said)}, model_option or (), dataset_option or (), _given(reading))


def _budget_of(given: object) -> dict[str, Any]:
    """The budget in `--job`, which may be a number of minutes."""
    if given is None or isinstance(given, dict):
        return given or {}
    if isinstance(given, int | float):
        return {"minutes": given}
    raise CommandError(f"--job: budget needs minutes, or an object with minutes and candidates, found {given!r}")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
