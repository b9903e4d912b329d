"""Keys as a serving process remembers them: strangers cost control few questions, and good keys nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.registry.errors import ControlAway, Overloaded
from service.serving import remembered_keys
from service.serving.remembered_keys import RememberedKeys

GOOD = b"Bearer good"


class Control:
    """What control answers, and what it was asked."""

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
    """Yes and no, for some seconds or until told; requests of one moment ask once; an error is not remembered."""

    async def talk() -> None:
        control = Control()
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
        monkeypatch.setattr(remembered_keys, "_REMEMBERED_S", 0.0)
        assert (keys.known(GOOD), keys.known(b"wrong")) == (None, None)

    asyncio.run(talk())


def test_strangers_are_asked_about_at_a_bounded_rate() -> None:
    """Of ten thousand wrong keys at once a part is asked about, the rest refused; a good key is asked about at once."""

    async def talk() -> None:
        control = Control()
        keys = RememberedKeys(control)
        assert await keys.ask(GOOD)
        began = time.monotonic()
        answers = await asyncio.gather(*[keys.ask(b"%d" % number) for number in range(10_000)], return_exceptions=True)
        asked = len(control.asked)
        assert 1000 <= asked <= 1500 + 1000 * (time.monotonic() - began)
        assert answers.count(False) == asked - 1
        overloaded = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert len(overloaded) == len(answers) - asked + 1
        assert len(keys._refused) <= 4096
        assert keys.known(GOOD) is not False
        keys.forget()
        await asyncio.gather(*[keys.ask(b"%d" % number) for number in range(3000)], return_exceptions=True)
        assert await keys.ask(GOOD)  # which was admitted before

    asyncio.run(talk())
