"""Problems (RFC 9457): the body of every answer under `/v1` that refuses a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, WithJsonSchema

from fedlas.contract.base import Shape
from fedlas.contract.error_codes import ERROR_CODES
from fedlas.contract.record_codes import RECORD_CODES

_KNOWN = {"type": "string", "enum": sorted({*ERROR_CODES, *RECORD_CODES})}
#: A stable code; there may be new ones.
Code = Annotated[str, WithJsonSchema({"anyOf": [_KNOWN, {"type": "string"}]})]


class FieldError(Shape):
    """One invalid part of a request."""

    field: str = Field(description="The field, parameter, header or part; a path with dots.")
    message: str = Field(description="The reason why it is invalid, and what is needed.")


class Problem(Shape):
    """The reason of a refusal, with a stable machine `code`."""

    type: str = Field(description="The address of the code's page on this server: what it means, and what to do.")
    title: str = Field(description="The phrase of the status code.")
    status: int = Field(description="The status code of the answer.")
    detail: str = Field(description="The finding, what is needed, and where, as a sentence.")
    code: Code = Field(description="A stable code for machines; each operation lists its codes.")
    errors: list[FieldError] = Field([], description="The invalid parts of the request, 20 at most.")


#: The code of a calibration on rows of which nobody has said whether the model was trained on them.
PROVENANCE_NEEDED = "provenance_needed"
#: The sentence that goes with it.
NEEDS_PROVENANCE = (
    "nobody has said which of the rows the model was trained on, and rows that it has seen cannot judge it: send the "
    "dataset with seen_by_model=no (on the command line --seen-by-model no) if it saw none of them, or with a column "
    "split whose train rows are those it saw"
)

#: The code of a calibration on rows without labels.
UNLABELLED = "unlabelled_dataset"


def needs_labels(dataset_id: str, columns: Sequence[str]) -> str:
    """The sentence that goes with `UNLABELLED`; a dataset may have no named columns.

    >>> needs_labels("ds_1", ["age", "bmi"]).partition(", so")[0]
    'the rows of ds_1 have no labels (its columns are age, bmi)'
    """
    found = f" (its columns are {', '.join(columns[:20])}{', …' if len(columns) > 20 else ''})" if columns else ""
    return (
        f"the rows of {dataset_id} have no labels{found}, so that nothing can be fitted to or judged on them, only "
        'predicted (POST /v1/batches): send them with a column label, or say which one it is, roles={"label": "its '
        'name"} (on the command line --role label=NAME), and without purpose=predict'
    )
