"""Names and keys as a serving process asks about them: made-up ones are bounded, good ones cost nothing."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from pydantic import BaseModel

from service.ipc.channel import Packet
from service.ipc.documents import ModelAnswer, ModelQuestion, Refusal
from service.ipc.reader import Questions
from service.registry.errors import ControlAway, NotFound, Overloaded
from service.serving import control_channel
from service.serving.control_channel import Meanings, RememberedKeys
from tests.helpers.publishing import PROFILE

GOOD = b"Bearer good"


class Control:
    """A control that knows names beginning with `known`, and sends a profile only where that is not at hand."""

    def __init__(self) -> None:
        self.questions = Questions(self)
        self.asked: list[ModelQuestion] = []

    def send(self, document: BaseModel) -> None:
        """Answer in the next turn of the loop."""
        assert isinstance(document, ModelQuestion)
        self.asked.append(document)
        asyncio.get_running_loop().call_soon(self._answer, document)

    def _answer(self, question: ModelQuestion) -> None:
        number, called = question.number, question.called
        if not called.startswith("known"):
            refusal = Refusal(number=number, error="NotFound", code="unknown_model", message="there is none")
            self.questions.answered(Packet(refusal))
            return
        answer = ModelAnswer(number=number, version="1", model_id=f"mdl_{called}", digest="0", served="{}")
        profile = b"" if question.known == answer.model_id else orjson.dumps(PROFILE)
        self.questions.answered(Packet(answer, profile))


def test_made_up_names_are_asked_about_at_a_bounded_rate() -> None:
    """A part of ten thousand names is asked about, the rest refused at once; thousands of real ones are all asked."""

    async def talk() -> None:
        control = Control()
        meanings = Meanings(control.questions, seconds=60)
        for number in range(2000):
            assert (await meanings.look_up(f"known-{number}", None)).profile.class_names == ["a", "b"]
        began = time.monotonic()
        names = [meanings.look_up(f"made up {number}", None) for number in range(10_000)]
        answers = await asyncio.gather(*names, return_exceptions=True)
        asked = sum(isinstance(answer, NotFound) for answer in answers)
        assert 400 <= asked <= 750 + 500 * (time.monotonic() - began)
        assert asked + sum(isinstance(answer, Overloaded) for answer in answers) == 10_000
        assert len(control.asked) == 2000 + asked
        found = await meanings.look_up("known-1999", None)
        assert (control.asked[-1].known, found.profile.class_names) == ("mdl_known-1999", ["a", "b"])

    asyncio.run(talk())


class KeyControl:
    """The answers of control, and the keys that it was asked about."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.good = {GOOD}
        self.away = False

    async def __call__(self, authorization: bytes) -> bool:
        """Answer in the next turn of the loop."""
        self.asked.append(authorization)
        await asyncio.sleep(0)
        if self.away:
            raise ControlAway
        return authorization in self.good


def test_answers_are_remembered_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Yes and no, for some seconds or until a change; requests of one moment ask once; an error is not remembered."""

    async def talk() -> None:
        control = KeyControl()
        keys = RememberedKeys(control)
        assert keys.known(GOOD) is None
        assert await asyncio.gather(*[keys.ask(key) for key in (GOOD, b"wrong") for _ in range(5)]) == (
            [True] * 5 + [False] * 5
        )
        assert control.asked == [GOOD, b"wrong"]
        assert (keys.known(GOOD), keys.known(b"wrong")) == (True, False)
        keys.forget()
        assert (keys.known(GOOD), keys.known(b"wrong")) == (None, None)
        control.good = {b"wrong"}
        assert [await keys.ask(key) for key in (GOOD, b"wrong")] == [False, True]
        assert (keys.known(GOOD), keys.known(b"wrong")) == (False, True)
        control.away = True
        with pytest.raises(ControlAway):
            await keys.ask(b"another")
        assert keys.known(b"another") is None
        monkeypatch.setattr(control_channel, "_REMEMBERED_S", 0.0)
        assert (keys.known(GOOD), keys.known(b"wrong")) == (None, None)

    asyncio.run(talk())


def test_strangers_are_asked_about_at_a_bounded_rate() -> None:
    """A part of ten thousand wrong keys at once is asked about, the rest refused; a good key is asked about at once."""

    async def talk() -> None:
        control = KeyControl()
        keys = RememberedKeys(control)
        assert await keys.ask(GOOD)
        began = time.monotonic()
        answers = await asyncio.gather(*[keys.ask(b"%d" % number) for number in range(10_000)], return_exceptions=True)
        asked = len(control.asked)
        assert 1000 <= asked <= 1500 + 1000 * (time.monotonic() - began)
        assert answers.count(False) == asked - 1
        assert len([answer for answer in answers if isinstance(answer, Overloaded)]) == len(answers) - asked + 1
        assert len(keys._refused) <= 4096
        assert keys.known(GOOD) is not False
        keys.forget()
        await asyncio.gather(*[keys.ask(b"%d" % number) for number in range(3000)], return_exceptions=True)
        assert await keys.ask(GOOD)  # which was admitted before

    asyncio.run(talk())
