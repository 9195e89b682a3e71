"""One timer for all nodes of an event loop, as long as there are any."""

from __future__ import annotations

import asyncio
import gc
import weakref

from agentnet.liveness.heart import BEAT_S, heart


async def test_all_beat_until_they_are_removed() -> None:
    beats: list[str] = []
    first, second = (lambda: beats.append("first")), (lambda: beats.append("second"))
    heart().add(first)
    heart().add(second)
    assert heart() is heart(), "one for the loop"
    await asyncio.sleep(2.5 * BEAT_S)
    assert beats[:2] == ["first", "second"]
    heart().remove(first)
    del beats[:]
    await asyncio.sleep(1.5 * BEAT_S)
    assert set(beats) == {"second"}
    heart().remove(second)
    del beats[:]
    await asyncio.sleep(1.5 * BEAT_S)
    assert beats == []


def test_a_loop_is_not_kept_for_its_heart() -> None:
    async def beat() -> None:
        heart().add(lambda: None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(beat())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
