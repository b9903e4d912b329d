"""Options: those of a model's or dataset's file, as they are kept with its record, and those of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, WithJsonSchema

from fedlas.contract.base import Document, JsonObject, PublishedName, Strict
from fedlas.contract.profiles import ImagePreprocessing, Missing, Purpose, SeenByModel, SplitShares, Task
from fedlas.contract.scores import WantedPromise

#: Priors sum to one within this.
PRIORS_TOLERANCE = 1e-6
#: A rarer class is as good as absent, and in float32 its logarithm soon becomes infinite.
MIN_PRIOR = 1e-9
_LISTED_NAMES = 5

ROLE_NAMES = ("label", "split", "group", "slices", "weight", "time", "id")
#: The roles of a file of scores, of which `score` is the score itself.
SCORE_ROLE_NAMES = ("score", *ROLE_NAMES)


#: Role → column, or columns for `slices`.
GivenRoles = dict[str, str | list[str]]


def _checked_roles(roles: GivenRoles | None, known: Sequence[str] = ROLE_NAMES) -> GivenRoles | None:
    for role, column in (roles or {}).items():
        if role not in known:
            raise ValueError(f"unknown role {role[:100]!r}; the roles are {', '.join(known)}")
        if not isinstance(column, str) and role != "slices":
            raise ValueError(f"role {role!r} must name a column, not several")
    return roles


SentRoles = Annotated[
    GivenRoles | None,
    AfterValidator(_checked_roles),
    Field(description="Role → column, such as `label`; `slices` names several columns."),
]
DatasetFormat = Literal["npz", "csv", "parquet", "imagefolder"]


FileName = Annotated[
    str | None, Field(max_length=200, description="The name of the record; by default that of the file.")
]
UploadId = Annotated[
    str | None,
    Field(max_length=100, description="A finished upload (`/v1/uploads`) in place of the file; used once."),
]
_Fill = Annotated[int, Field(ge=-(2**63), lt=2**63)] | float
Padding = Annotated[dict[str, _Fill] | None, Field(description="Input → the number that fills its shorter rows.")]


class DatasetOptions(Document):
    """The options of a dataset's file."""

    format: DatasetFormat | None = Field(None, description="The format of the file; by default the content tells.")
    roles: GivenRoles | None = Field(
        None, description="Role → column, such as `label`; `slices` names several columns."
    )
    seen_by_model: SeenByModel | None = Field(
        None, description="The rows that the model was trained on; by default `train_split` where splits are given."
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="The seed with which splits are drawn.")
    split_shares: SplitShares | None = Field(None, description="Shares of the splits that are drawn, which sum to 1.")
    missing: Missing = Field("reject", description="`nan`: numbers may be missing; `reject`: they may not.")
    padding: Padding = None
    purpose: Purpose | None = Field(
        None, description="`predict`: rows without labels, for predictions only; by default the file tells."
    )


class DatasetPart(DatasetOptions):
    """The options of a dataset as they are sent: in a query, a form, or the part of a job's form."""

    roles: SentRoles = None
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
    """The options of a model as they are sent: in a query, a form, or the part of a job's form."""

    name: FileName = None
    upload_id: UploadId = None


def check_priors(given: Mapping[str, float]) -> None:
    """Raise ValueError unless the priors are each at least `MIN_PRIOR` and together one, within `PRIORS_TOLERANCE`.

    >>> check_priors({"fraud": 0.002, "fine": 0.99})
    Traceback (most recent call last):
    ValueError: class priors must sum to 1; these sum to 0.992
    """
    for name, prior in given.items():
        if not MIN_PRIOR <= prior <= 1:
            raise ValueError(
                f"the prior of class {name[:100]!r} is {prior!r}; expected a share above 0 (at least {MIN_PRIOR:g})"
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


#: The warnings that are certain enough to end a job or a fit, unless it accepts them.
WarningCode = Literal[
    "label_order",
    "labels_from_one",
    "input_scale",
    "input_channels",
    "input_columns",
    "input_tokens",
    "constant_answers",
    "constant_column",
    "softmax_twice",
    "worse_than_frequencies",
    "training_rows",
    "few_rows",
]


class ScoresOptions(Document):
    """The options of a file of scores."""

    method: str = "auto"
    class_names: list[str] | None = Field(None, description="The names of the classes, in the order of the columns.")
    roles: GivenRoles | None = Field(
        None, description="Role → column, such as `label`; `slices` names several columns."
    )
    split_shares: SplitShares | None = Field(None, description="Shares of the splits that are drawn, which sum to 1.")
    class_priors: GivenPriors = Field(
        None, description="How often each class occurs where the scores come from, by class name."
    )
    promise: WantedPromise | None = Field(
        None, description="The promise of the threshold of one score or several signals; 5 % errors unless it is given."
    )
    slice: str | None = Field(None, max_length=200, description="The column whose values get thresholds of their own.")
    valid_for: str | None = Field(
        None, max_length=200, description="The version of score, judge or prompt; answers to another one are `stale`."
    )
    accept_warnings: list[WarningCode] = Field(
        default_factory=list, max_length=20, description="Codes of warnings that shall not end the fit."
    )
    publish_as: PublishedName | None = Field(
        None, description="The name that answers with it, if its promise is kept; of one score or several signals."
    )


class ScoresPart(ScoresOptions):
    """The options of a file of scores as they are sent."""

    method: str = Field(
        "auto", pattern="^[a-z][a-z0-9_]{0,39}$", description="`auto`, `temperature`, `affine`, … or another by name."
    )
    roles: Annotated[GivenRoles | None, AfterValidator(partial(_checked_roles, known=SCORE_ROLE_NAMES))] = Field(
        None, description="Role → column, such as `label`, or `score`; `slices` names several columns."
    )
    name: FileName = None
    wait: float = Field(60, ge=0, le=60, description="Seconds to wait for the calibrator; then the answer is 202.")


def _choice(name: str, value: JsonObject) -> JsonObject:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


_COSTS: JsonObject = {"type": "array", "items": {"type": "array", "items": {"type": "number", "minimum": 0}}}
#: The rule of a decision; `service.predict.formats.predictions` checks it against the model.
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
