"""Questions between processes: each has its own answer, an error arrives as the error, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from service.ipc.channel import Full, Packet
from service.ipc.documents import Answer, Done, Forget, KeyAnswer, Refusal
from service.ipc.questions import Questions
from service.ipc.refusals import error_of, refusal_of
from service.registry import errors


class Other:
    """The other side: it keeps what it is asked, or reads nothing."""

    def __init__(self, *, reads: bool = True) -> None:
        self.asked: list[Any] = []
        self._reads = reads

    def send(self, document: BaseModel) -> None:
        """Take a message."""
        if not self._reads:
            raise Full
        self.asked.append(document)


def forget(number: int) -> Forget:
    """A question."""
    return Forget(number=number)


def packet(answer: Answer) -> Packet[Answer]:
    """An answer as it arrives."""
    return Packet(answer)


def test_each_has_its_own_answer() -> None:
    """In whatever order they come; one that nobody waits for, or a second one, is nothing."""

    async def talk() -> list[Any]:
        other = Other()
        questions = Questions(other)
        asked = [asyncio.ensure_future(questions.ask(forget, seconds=60)) for _ in range(3)]
        await asyncio.sleep(0)
        numbers = [question.number for question in other.asked]
        for number in (99, *reversed(numbers), *numbers):
            questions.answered(packet(KeyAnswer(number=number, admitted=number == numbers[1])))
        found = [answer.document for answer in await asyncio.gather(*asked)]
        assert [answer.number for answer in found] == numbers
        questions.answered(packet(Done(number=numbers[0])))
        return [answer.admitted for answer in found]  # type: ignore[union-attr]

    assert asyncio.run(talk()) == [False, True, False]


@pytest.mark.parametrize("reads", [True, False])
def test_who_does_not_answer_is_away(reads: bool) -> None:
    """In the time that was given, or at once where it does not even read; a late answer changes nothing."""

    async def talk() -> None:
        other = Other(reads=reads)
        questions = Questions(other)
        with pytest.raises(errors.ControlAway):
            await questions.ask(forget, seconds=0.05 if reads else 60)
        questions.answered(packet(Done(number=1)))

    asyncio.run(talk())


ERRORS: list[Callable[[], errors.RegistryError]] = [
    lambda: errors.NotFound("unknown_model", "there is none", field="model"),
    lambda: errors.InvalidRequest("invalid_request", "so not"),
    lambda: errors.Conflict("model_not_ready", "it is inspected", passing=True),
    lambda: errors.Conflict("model_unloaded", "it was unloaded"),
    lambda: errors.TooLarge("too_large", "more than 5"),
    lambda: errors.Unavailable("database_unavailable", "it is away"),
]


@pytest.mark.parametrize("make", ERRORS)
def test_errors_arrive_as_they_were(make: Callable[[], errors.RegistryError]) -> None:
    """With kind, code, words and field, raised where it was asked."""
    error = make()

    async def talk() -> errors.RegistryError:
        other = Other()
        questions = Questions(other)
        asked = asyncio.ensure_future(questions.ask(forget, seconds=60))
        await asyncio.sleep(0)
        questions.answered(packet(refusal_of(other.asked[0].number, error)))
        with pytest.raises(errors.RegistryError) as raised:
            await asked
        return raised.value

    found = asyncio.run(talk())
    assert type(found) is type(error)
    assert {**vars(found)} == {**vars(error)}


def test_other_errors_are_unavailable() -> None:
    """What no question can have, and what another release might call an error."""
    assert type(error_of(refusal_of(1, errors.LeaseLost("lease_lost", "gone")))) is errors.Unavailable
    assert type(error_of(Refusal(number=1, error="SystemExit", code="a", message="b"))) is errors.Unavailable
