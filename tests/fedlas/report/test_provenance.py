"""The owner and the environment of a report: names, ids and day, in report.json and at the top of the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from fedlas.contract.report import Named, Subject
from fedlas.report import library_versions
from fedlas.report.provenance import rfc3339
from tests.helpers.reports import is_whole, report

TARGETS = np.arange(60) % 3
PROBS = np.full((60, 3), 0.2) + 0.4 * np.eye(3)[TARGETS]
NAMED = Named(name="digits-cnn", id="mdl_1", sha256="5c" * 32), Named(name="fresh rows", id="ds_1", sha256="ab" * 32)
WHOLE = Subject(model=NAMED[0], dataset=NAMED[1], job_id="job_1", created_at="2026-07-05T09:03:01Z")


def heading(subject: Subject | None) -> str:
    """The text of the page above its first section, in one line."""
    page = is_whole(report(PROBS, TARGETS, subject=subject))
    return " ".join(re.sub("<[^>]+>", " ", page[page.index("<header>") : page.index("</header>")]).split())


def test_the_page_opens_with_whose_it_is() -> None:
    """Name and id of model and dataset, the job and the day, before any verdict; the document has digests too."""
    assert heading(WHOLE).startswith(
        "Calibration report of digits-cnn Model digits-cnn mdl_1 Dataset fresh rows ds_1 Job job_1 "
        "Created 5 July 2026, 09:03 UTC Nothing changed"
    )
    assert report(PROBS, TARGETS, subject=WHOLE).as_dict()["subject"] == {
        "model": {"name": "digits-cnn", "id": "mdl_1", "sha256": "5c" * 32},
        "dataset": {"name": "fresh rows", "id": "ds_1", "sha256": "ab" * 32},
        "job_id": "job_1",
        "created_at": "2026-07-05T09:03:01Z",
    }


@pytest.mark.parametrize(
    ("subject", "opens_with"),
    [
        (None, "Calibration report Nothing changed"),
        (Subject(), "Calibration report Nothing changed"),
        (
            Subject(model=Named(name="digits.onnx")),
            "Calibration report of digits.onnx Model digits.onnx Nothing changed",
        ),
        (Subject(model=Named(sha256="5c")), "Calibration report Model 5c Nothing changed"),
        (
            Subject(model=None, dataset=Named(name="march", id="cal_1")),
            "Calibration report of march Scores march cal_1 Nothing changed",
        ),
    ],
)
def test_a_report_without_a_job_shows_what_it_has(subject: Subject | None, opens_with: str) -> None:
    """Nothing is made up: a name, a digest, scores without a model, or nothing at all."""
    assert heading(subject).startswith(opens_with)


def test_a_moment_is_written_in_utc_to_the_second() -> None:
    """A moment is in UTC whatever the zone of the request, and absent where there was none."""
    at = datetime(2026, 7, 5, 11, 3, 1, 999, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(at) == rfc3339(at.astimezone(UTC)) == "2026-07-05T09:03:01Z"
    assert rfc3339(None) is None


def test_versions_name_what_is_installed() -> None:
    """Python, NumPy and the library itself are always there."""
    assert {"python", "numpy", "fedlas"} <= set(library_versions())
