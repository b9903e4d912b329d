"""Options: those of a model's or dataset's file, as they are kept with its record, and those of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from fedlas.contract.base import Document, Strict
from fedlas.contract.profiles import ImagePreprocessing, Missing, Purpose, SeenByModel, SplitShares, Task

#: Priors sum to one within this.
PRIORS_TOLERANCE = 1e-6
#: A rarer class is as good as absent, and in float32 its logarithm soon becomes infinite.
MIN_PRIOR = 1e-9
_LISTED_NAMES = 5

#: Role → column, or columns for `slices`.
GivenRoles = dict[str, str | list[str]]


class DatasetOptions(Document):
    """The options of a dataset's file."""

    format: str | None = None
    roles: GivenRoles | None = None
    seen_by_model: SeenByModel | None = None
    split_seed: int = 0
    split_shares: SplitShares | None = None
    missing: Missing = "reject"
    padding: dict[str, int | float] | None = None
    purpose: Purpose | None = None


class ModelOptions(Document):
    """The options of a model's file."""

    output: str | None = None
    features: str | None = None
    task: Task | None = None
    class_names: list[str] | None = None
    positive_class: str | None = None
    preprocessing: ImagePreprocessing | None = None
    columns: list[str] | None = None
    padding: dict[str, int | float] | None = None
    missing: Missing | None = None


class ScoresOptions(Document):
    """The options of a file of scores."""

    method: str
    class_names: list[str] | None = None
    roles: GivenRoles | None = None
    split_shares: SplitShares | None = None
    class_priors: dict[str, float] | None = None


def check_priors(given: Mapping[str, float]) -> None:
    """Raise ValueError unless the priors are each at least `MIN_PRIOR` and together one, within `PRIORS_TOLERANCE`.

    >>> check_priors({"fraud": 0.002, "fine": 0.99})
    Traceback (most recent call last):
    ValueError: class priors must sum to 1; these sum to 0.992
    """
    for name, prior in given.items():
        if not MIN_PRIOR <= prior <= 1:
            raise ValueError(
                f"the prior of class {name[:100]!r} is {prior!r}; needed is a share above 0 (at least {MIN_PRIOR:g})"
            )
    total = float(sum(given.values()))
    if abs(total - 1) > PRIORS_TOLERANCE:
        raise ValueError(f"class priors must sum to 1; these sum to {total:.9g}")


def check_classes(given: Mapping[str, float], class_names: Sequence[str]) -> None:
    """Raise ValueError unless the priors name exactly these classes.

    >>> check_classes({"fraud": 0.002, "other": 0.998}, ["fine", "fraud"])
    Traceback (most recent call last):
    ValueError: class priors name 'other', but the classes are 'fine', 'fraud'
    """
    known = set(class_names)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"class priors name {_listed(unknown)}, but the classes are {_listed(class_names)}")
    if missing := [name for name in class_names if name not in given]:
        raise ValueError(f"class priors need every class; {_listed(missing)} missing")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:100]) for name in names[:_LISTED_NAMES])
    return f"{shown} and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else shown


def _checked_priors(value: dict[str, float] | None) -> dict[str, float] | None:
    if value is not None:
        check_priors(value)
    return value


#: Class → how often it occurs; which classes there are is checked against a model.
GivenPriors = Annotated[dict[str, float] | None, AfterValidator(_checked_priors)]


class AnswerOptions(Strict):
    """Options of an answer: what a prediction carries beside the label."""

    model_config = ConfigDict(frozen=True)

    top_k: int | None = Field(None, ge=1, le=1000, description="The number of most probable classes in each answer.")
    abstain_below: float | None = Field(None, ge=0, le=1, description="The answer abstains below this confidence.")
    max_error: float | dict[str, float] | None = Field(
        None,
        description="Abstain so that at most this share of the answers is wrong; or such a share of each true class's "
        'answers: `{"class": share}` for every class, or by class name.',
    )
    coverage: float | dict[str, float] | None = Field(
        None,
        description="Answer `prediction_set`, which holds the true class with this probability; or with such a "
        'probability for the rows of each true class: `{"class": c}` for every class, or by class name.',
    )
    decision: dict[str, JsonValue] | None = Field(
        None,
        description='`{"threshold": t}` on the positive class, `{"costs": [[…]]}` (rows decide, columns are true), or '
        '`{"keep": "alarm_rate"}`: each class as often as the uploaded model answers it.',
    )
    class_priors: GivenPriors = Field(
        None,
        description="How often each class occurs among these rows, by class name; sums to 1. It takes the place of "
        "the priors of the published name, and those of the model's.",
    )
    probabilities: bool | None = Field(
        None,
        description="The calibrated probabilities of all classes, in the order of `class_names`. Without it npy has "
        "them, results of batches have them for up to 100 classes, and JSON has none.",
    )
