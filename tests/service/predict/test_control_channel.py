"""Served copies as a serving process wants them: made-up ids are bounded, and one that is there costs nothing."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import TypeAdapter

from service.ipc.channel import Channel, pair
from service.ipc.documents import ToControl, Wanted
from service.predict.control_channel import ControlChannel
from service.registry.errors import Overloaded


def wanted(channel: Channel[ToControl]) -> list[str]:
    """The ids that have arrived at control."""
    ids = []
    while (packet := channel.receive()) is not None:
        assert isinstance(packet.document, Wanted)
        ids.append(packet.document.model)
    return ids


def test_made_up_ids_are_wanted_at_a_bounded_rate() -> None:
    """Control hears of some of a thousand, the others are refused at once; an id is sent once."""
    ours, theirs = pair()
    channel: Channel[ToControl] = Channel(theirs, TypeAdapter(ToControl))
    ids = [f"mdl_{number:026d}" for number in range(1000)]

    async def want() -> list[str]:
        process = ControlChannel(ours, provider="CPUExecutionProvider")
        told: list[str] = []
        for model_id in [*ids[:2], *ids[:2]]:
            await process.want(model_id)
        told += wanted(channel)
        with pytest.raises(Overloaded):
            for model_id in ids:
                await asyncio.wait_for(process.want(model_id), 5)
                told += wanted(channel)
        return told

    async def rushed() -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("service.predict.control_channel._LOOK_EVERY_S", 0.0)
            return await want()

    with ours, theirs:
        told = asyncio.run(rushed())
    assert told[:2] == ids[:2]
    assert len(set(told)) == len(told)
    assert 500 <= len(told) < 1000
