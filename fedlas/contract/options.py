"""Options: those of a model's or dataset's file, as they are kept with its record, and those of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, WithJsonSchema

from fedlas.contract.base import Document, JsonObject, Strict
from fedlas.contract.profiles import ImagePreprocessing, Missing, Purpose, SeenByModel, SplitShares, Task

#: Priors sum to one within this.
PRIORS_TOLERANCE = 1e-6
#: A rarer class is as good as absent, and in float32 its logarithm soon becomes infinite.
MIN_PRIOR = 1e-9
_LISTED_NAMES = 5

#: Role → column, or columns for `slices`.
GivenRoles = dict[str, str | list[str]]


FileName = Annotated[str | None, Field(description="The name of the record; by default that of the file.")]
UploadId = Annotated[
    str | None, Field(description="A finished upload (`/v1/uploads`) in place of the file; used once.")
]
Padding = Annotated[dict[str, int | float] | None, Field(description="Input → the number that fills its shorter rows.")]


class DatasetOptions(Document):
    """The options of a dataset's file."""

    format: str | None = Field(
        None, description="`npz`, `csv`, `parquet` or `imagefolder`; by default the content tells."
    )
    roles: GivenRoles | None = Field(None, description="Role → column; `slices` names several columns.")
    seen_by_model: SeenByModel | None = Field(
        None, description="The rows that the model was trained on; by default `train_split` where splits are given."
    )
    split_seed: int = Field(0, description="The seed with which splits are drawn.")
    split_shares: SplitShares | None = Field(None, description="Shares of the splits, where they are drawn.")
    missing: Missing = Field("reject", description="`nan`: numbers may be missing; `reject`: they may not.")
    padding: Padding = None
    purpose: Purpose | None = Field(
        None, description="`predict`: rows without labels, for predictions only; by default the file tells."
    )


class DatasetPart(DatasetOptions):
    """The options of a dataset in the form of a job."""

    name: FileName = None
    upload_id: UploadId = None


class ModelOptions(Document):
    """The options of a model's file."""

    output: str | None = Field(None, description="The output that classifies, where there are several.")
    features: str | None = Field(None, description="The tensor to tap as penultimate features.")
    task: Task | None = Field(None, description="`binary` or `multiclass`, where the output leaves it open.")
    class_names: list[str] | None = Field(None, description="The names of the classes, in the output's order.")
    positive_class: str | None = Field(None, description="The class to which `probability` and thresholds belong.")
    preprocessing: ImagePreprocessing | None = Field(
        None, description="The steps from image files to the model's input, in training and serving."
    )
    columns: list[str] | None = Field(None, description="Names of the columns of the single input, a matrix, in order.")
    padding: Padding = None
    missing: Missing | None = Field(
        None, description="`nan`: numbers may be missing; null: as in the dataset that calibrates the model."
    )


class ModelPart(ModelOptions):
    """The options of a model in the form of a job."""

    name: FileName = None
    upload_id: UploadId = None


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


def _choice(name: str, value: JsonObject) -> JsonObject:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


_COSTS: JsonObject = {"type": "array", "items": {"type": "array", "items": {"type": "number", "minimum": 0}}}
#: The rule of a decision; `service.inference.predictions` checks it against the model.
Decision = Annotated[
    dict[str, JsonValue],
    WithJsonSchema(
        {
            "oneOf": [
                _choice("threshold", {"type": "number", "minimum": 0, "maximum": 1}),
                _choice("costs", _COSTS),
                _choice("keep", {"type": "string", "enum": ["alarm_rate"]}),
            ]
        }
    ),
]


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
    decision: Decision | None = Field(
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
