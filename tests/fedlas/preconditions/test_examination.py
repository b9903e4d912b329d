"""The examination: findings of its checks are reported or end a job, whatever one of them does."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fedlas.contract.profiles import Notice
from fedlas.errors import PreconditionFailed
from fedlas.preconditions import examination
from fedlas.preconditions.examination import Examined, examine, require_accepted
from tests.helpers.matches import examined, gaussian_answers

ERROR = Notice(code="label_order", message="the order is another", severity="error")


def test_a_check_that_fails_refuses_no_job(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Findings of the other checks are reported; the failure is in the log."""

    def failing(match: Examined) -> list[Notice]:
        raise IndexError("odd data")

    monkeypatch.setattr(examination, "CHECKS", (failing, lambda match: [ERROR]))
    logits, targets, _ = gaussian_answers(np.random.default_rng(0), 2, 50, apart=1.0)
    with caplog.at_level(logging.ERROR, logger="fedlas.preconditions"):
        assert examine(examined(logits, targets)) == (ERROR,)
    assert "failing" in caplog.text


@pytest.mark.parametrize("num_classes", [2, 3])
def test_rows_of_one_group_are_examined(num_classes: int) -> None:
    """There is no half that could test what the other has chosen: nothing is certain, and nothing fails."""
    logits, targets, _ = gaussian_answers(np.random.default_rng(0), num_classes, 300, apart=2.0)
    order = np.roll(np.arange(num_classes), 1)
    notices = examination.label_order(examined(logits[:, order], targets, groups=np.zeros(300, np.int64)))
    assert "error" not in {notice.severity for notice in notices}


def test_what_is_certain_ends_a_job_unless_it_is_accepted() -> None:
    """The error has the notice's code and says how to go on; accepted, it is a warning."""
    with pytest.raises(PreconditionFailed, match=r'accept_warnings: \["label_order"\]') as failed:
        require_accepted([ERROR], [])
    assert failed.value.code == "label_order"
    assert [notice.severity for notice in require_accepted([ERROR], ["label_order"])] == ["warning"]


def test_only_what_is_given_can_be_accepted() -> None:
    """An override that stands longer than its reason would hide the next mistake."""
    with pytest.raises(PreconditionFailed, match=r"names input_scale, but .*found: label_order") as failed:
        require_accepted([ERROR], ["input_scale", "label_order"])
    assert failed.value.code == "warning_not_given"
