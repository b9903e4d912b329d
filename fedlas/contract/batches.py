"""Batches: the files of the results of predictions over a stored dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedlas.contract.base import Document, Sha256


class PartResult(Document):
    """The result of one shard, beside the file of its answers."""

    num_rows: int = Field(ge=1)
    num_errors: int | None = Field(None, ge=0)
    bytes: int = Field(ge=1)


class ResultPart(Document):
    """A part of the results: a Parquet file of neighbouring rows of the dataset."""

    number: int = Field(ge=0, description="Number of the part, from 0; `/results/parts/{number}` is its file.")
    first_row: int = Field(ge=0, description="The first row in the dataset, counted from 0.")
    num_rows: int = Field(ge=1, description="The number of rows in the part.")
    bytes: int = Field(ge=1, description="Size of the file in bytes.")
    sha256: Sha256 = Field(description="SHA-256 of the part's file.")

    @property
    def rows(self) -> range:
        """The rows of the dataset that it answers."""
        return range(self.first_row, self.first_row + self.num_rows)


class BatchManifest(Document):
    """All parts of a batch's results; their rows are those of the dataset, in its order, once each."""

    format_version: Literal[1] = Field(1, description="The version of the manifest's format.")
    batch_id: str = Field(description="The id of the batch, `bat_…`.")
    model_sha256: Sha256 | None = Field(
        None,
        description="SHA-256 of the model's file, as in its record; null where results are one file and it is deleted.",
    )
    dataset_sha256: Sha256 | None = Field(None, description="SHA-256 of the dataset's file, as in its record.")
    num_rows: int = Field(ge=0, description="The number of rows in all parts together.")
    num_errors: int | None = Field(None, ge=0, description="With `errors: column`: rows without an answer.")
    parts: list[ResultPart] = Field(min_length=1, description="The parts, in the order of their rows.")

    @model_validator(mode="after")
    def _parts_are_the_whole(self) -> BatchManifest:
        first = 0
        for number, part in enumerate(self.parts):
            if (part.number, part.first_row) != (number, first):
                found = f"part {part.number} begins with row {part.first_row}"
                raise ValueError(f"{found} where part {number} must begin with row {first}")
            first += part.num_rows
        if first != self.num_rows:
            raise ValueError(f"its {len(self.parts)} parts have {first} rows together, not {self.num_rows}")
        return self
