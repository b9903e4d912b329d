"""Answer options: what a prediction carries beside the label, as requests for predictions and batches ask for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from fedlas.deployment import check_priors
from service.registry.json_models import Strict


def _are_priors(value: dict[str, float] | None) -> dict[str, float] | None:
    if value is not None:
        check_priors(value)
    return value


#: How often each class occurs, by class name; which classes there are is checked against a model.
GivenPriors = Annotated[dict[str, float] | None, AfterValidator(_are_priors)]


class AnswerOptions(Strict):
    """Options of an answer: what a prediction carries beside the label."""

    model_config = ConfigDict(frozen=True)

    top_k: int | None = Field(None, ge=1, le=1000, description="So many of the most probable classes of each row.")
    abstain_below: float | None = Field(None, ge=0, le=1, description="Abstain below this confidence.")
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
        description="How often each class occurs among these rows, by class name; sums to 1. Over those of the "
        "published name, over those of the model.",
    )
    probabilities: bool | None = Field(
        None,
        description="The calibrated probabilities of all classes, in the order of `class_names`. Without it npy has "
        "them, results of batches have them for up to 100 classes, and JSON has none.",
    )
