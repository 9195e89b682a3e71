"""The tasks whose answers came together are woken together, and one of them ends the program."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentnet import Call, NoSuchAgent
from agentnet.call import Waker
from agentnet.runner import settle


@pytest.mark.parametrize("last", [False, True])
def test_who_ends_the_program_keeps_nobody_from_waking(last: bool) -> None:
    """As of any task: what ends the program leaves `run_until_complete`, and the others go on after it."""
    woken: list[int] = []
    loop = asyncio.new_event_loop()
    waker = Waker(loop)
    calls = [Call[Any](waker) for _ in range(3)]

    async def wait(number: int) -> None:
        try:
            await calls[number]
        except NoSuchAgent:
            woken.append(number)
            if number == (2 if last else 0):
                raise SystemExit from None

    tasks = [loop.create_task(wait(number)) for number in range(3)]
    loop.call_soon(lambda: settle([(call, NoSuchAgent("nobody"), None) for call in calls], None))
    with pytest.raises(SystemExit):
        loop.run_until_complete(asyncio.sleep(1))
    loop.run_until_complete(asyncio.wait(tasks))
    assert woken == [0, 1, 2]
    loop.close()
