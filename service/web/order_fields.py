"""Order fields: a form's fields as the order of a job, and an order as the fields that show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import JsonValue

from service.registry.contract import JobRecord
from service.registry.documents import JsonObject
from service.web.form_fields import nested, number_or_text
from service.web.form_keys import FIELD

#: Fields of a form that stand for a number of the API.
_NUMBERS = frozenset(
    {
        *("budget.minutes", "budget.candidates", "seed", "expected_accuracy", "max_cost_factor"),
        *("gate.confidence_level", "gate.max_accuracy_drop", "gate.max_recall_drop"),
        *("hyperparameters.epochs", "hyperparameters.learning_rate", "hyperparameters.batch_size"),
        *("hyperparameters.alpha", "hyperparameters.beta", "hyperparameters.margin", "hyperparameters.momentum"),
    }
)
#: Fields of several lines `name = value`.
_LINES = ("class_priors", "metadata")
_ACCEPTED = "accept_warnings"
#: The form's own key, and the dry run that it shows, are no part of the order.
_NOT_SENT = frozenset({FIELD, "check", _ACCEPTED})


def order_of(fields: Sequence[tuple[str, str]]) -> JsonObject:
    """The order that a form's fields say, as the API takes it.

    >>> order_of([("model_id", "mdl_1"), ("seed", "3"), ("metadata", "team = x"), ("accept_warnings", "label_order")])
    {'model_id': 'mdl_1', 'seed': 3, 'metadata': {'team': 'x'}, 'accept_warnings': ['label_order']}
    """
    given = {name: text for name, text in fields if name not in _NOT_SENT}
    order = nested({name: text for name, text in given.items() if name not in _LINES}, numbers=_NUMBERS)
    # Names of classes may hold the sign between name and value; so may values of metadata.
    if priors := _lines(given.get("class_priors", ""), str.rpartition):
        order["class_priors"] = {name: number_or_text(share) for name, share in priors}
    if words := _lines(given.get("metadata", ""), str.partition):
        order["metadata"] = dict(words)
    if accepted := [text for name, text in fields if name == _ACCEPTED]:
        order[_ACCEPTED] = list(accepted)
    return order


def fields_of(job: JobRecord) -> dict[str, str]:
    """The fields that show a job's order; a webhook's secret is not known any more, so its address is left out too."""
    order = job.model_dump(
        mode="json",
        include={
            *("method", "hyperparameters", "seed", "budget", "gate", "expected_accuracy", "max_cost_factor"),
            *("publish_as", "publish_when", "accelerator"),
        },
    )
    fields = dict(_flat(order))
    fields["class_priors"] = _as_lines(job.class_priors or {})
    fields["metadata"] = _as_lines(job.metadata)
    return fields


def suggested_name(name: str) -> str:
    """A name to publish under, made of a file's name.

    >>> suggested_name("Digits v2 (final).onnx"), suggested_name("über.onnx"), suggested_name("…")
    ('Digits-v2-final', 'ber', '')
    """
    stem = name.rpartition(".")[0] or name
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else " " for one in stem)
    return "-".join(plain.split()).strip("._-").removeprefix("mdl_")[:100]


def _lines(text: str, parted: Callable[[str, str], tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Lines `name = value`."""
    parts = [parted(line, "=") for line in text.splitlines() if line.strip()]
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _as_lines(values: Mapping[str, object]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in values.items())


def _flat(value: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, one in value.items():
        if isinstance(one, dict):
            yield from _flat(one, f"{prefix}{name}.")
        elif one is not None:
            yield f"{prefix}{name}", f"{one:g}" if isinstance(one, float) else str(one)
