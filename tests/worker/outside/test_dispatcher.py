"""The dispatcher: every ask has its reply."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.helpers.service import until
from worker.documents import EndReply
from worker.outside.checkpoint_upload import FOLDER
from worker.outside.dispatcher import Dispatcher


def test_an_ask_that_follows_its_reply_at_once_is_answered(tmp_path: Path) -> None:
    """However soon the child asks again: in the moment in which it has its reply."""
    work: Any = SimpleNamespace(record_id="shd_1", reply=lambda journal: EndReply())
    sent: list[EndReply] = []

    def send(reply: EndReply) -> None:
        sent.append(reply)
        if len(sent) < 100:
            work.ask()

    replies: Any = SimpleNamespace(send=send)
    uploader: Any = SimpleNamespace(drain=lambda seconds: True)
    with Dispatcher(work, tmp_path, replies, uploader):
        assert (tmp_path / FOLDER).is_dir(), "a child makes its own what is there when it begins"
        work.ask()
        until(lambda: len(sent) == 100, what="every ask is answered")
