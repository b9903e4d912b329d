"""What names and ids mean, as control answers: a profile comes once, and is kept for as long as it is asked for."""

from __future__ import annotations

from collections import OrderedDict

import orjson

from service.ipc.documents import MOST_TEXT, ModelAnswer, ModelQuestion
from service.ipc.questions import Questions
from service.registry.errors import Overloaded
from service.resolved_model import Meaning, Profiles, ResolvedModel
from service.serving.turns import Turns

_MOST_KEPT = 1000
#: Questions about names that mean nothing: a client may make up any number of them.
_UNKNOWN_PER_S, _UNKNOWN_AT_ONCE, _LONGEST_WAIT_S = 500, 500, 0.5


class Meanings:
    """Looks up names at control; on the event loop.

    Args:
        seconds: after so long without an answer control is away.
    """

    def __init__(self, questions: Questions, *, seconds: float) -> None:
        self._questions = questions
        self._seconds = seconds
        self._profiles = Profiles()
        self._last: OrderedDict[tuple[str, str | None], Meaning] = OrderedDict()
        self._unknown = Turns(per_second=_UNKNOWN_PER_S, most=_UNKNOWN_AT_ONCE)

    async def look_up(self, called: str, version: str | None) -> ResolvedModel:
        """What a name means now; raises ControlAway, Overloaded, and what control answers."""
        last = self._last.get((called, version))
        if last is None and not await self._unknown.turn(longest=_LONGEST_WAIT_S):
            raise Overloaded("overloaded", "too many unknown models are asked for; try again in 1 s", retry_after=1)
        known = None if last is None else last.model_id
        # No name or number is longer: a longer one is unknown.
        name, numbered = called[:MOST_TEXT], version and version[:MOST_TEXT]
        packet = await self._questions.ask(
            lambda number: ModelQuestion(number=number, called=name, version=numbered, known=known),
            seconds=self._seconds,
        )
        answer = packet.document
        assert isinstance(answer, ModelAnswer)
        if last is None:
            self._unknown.give_back()
        meaning = Meaning(
            called=called,
            version=answer.version,
            model_id=answer.model_id,
            digest=answer.digest,
            served=answer.served.encode(),
            profile=orjson.loads(packet.content) if packet.content or last is None else last.profile,
            priors=answer.priors,
        )
        self._keep(meaning, version)
        return self._profiles.resolved(meaning)

    def _keep(self, meaning: Meaning, version: str | None) -> None:
        self._last[meaning.called, version] = meaning
        self._last.move_to_end((meaning.called, version))
        if len(self._last) > _MOST_KEPT:
            self._last.popitem(last=False)
