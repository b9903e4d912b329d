"""Names as a serving process asks about them: made-up ones are bounded, good ones cost nothing."""

from __future__ import annotations

import asyncio
import time

import orjson
from pydantic import BaseModel

from service.ipc.channel import Packet
from service.ipc.documents import ModelAnswer, ModelQuestion, Refusal
from service.ipc.reader import Questions
from service.registry.errors import NotFound, Overloaded
from service.serving.control_channel import Meanings
from tests.helpers.publishing import PROFILE


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
