"""agentnet.testing on virtual time: nodes, faults, seeds, what costs nothing, and what can never end."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from networks import Inbox, echo

from agentnet import (
    AgentMessage,
    AgentNetworkManager,
    ConfigError,
    Event,
    LinkLost,
    NetworkError,
    NodeStatus,
    NotRunning,
    RequestTimeout,
)
from agentnet.testing import Stalled, VirtualNetwork, Weather


@pytest.fixture
def net() -> Iterator[VirtualNetwork]:
    """A network without the plugin: these tests hold in every way to run them."""
    made = VirtualNetwork(seed=1)
    yield made
    made.close()


def active(node: AgentNetworkManager) -> list[str]:
    return [member.node_id for member in node.members() if member.status is NodeStatus.ACTIVE]


class TestTime:
    def test_an_hour_is_one_turn_of_the_loop(self, net: VirtualNetwork) -> None:
        async def sleep() -> float:
            await asyncio.sleep(3600)
            return net.clock.now

        steps = net.loop.passed
        assert net.run(sleep()) >= 3600
        assert net.loop.passed - steps < 10

    def test_timeouts_and_timers_come_in_their_order(self, net: VirtualNetwork) -> None:
        seen: list[object] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for delay in (3, 1, 2):
                loop.call_later(delay, seen.append, delay)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await asyncio.Event().wait()
            seen.append("timeout")
            await asyncio.sleep(10)

        net.run(main())
        assert seen == [1, "timeout", 2, 3]

    def test_polling_passes_time(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            end = asyncio.get_running_loop().time() + 0.01
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0)

        net.run(main())
        assert net.clock.now >= 0.01

    def test_a_thread_is_refused(self, net: VirtualNetwork) -> None:
        refused: list[BaseException] = []

        def call(loop: asyncio.AbstractEventLoop) -> None:
            try:
                loop.call_soon_threadsafe(print)
            except RuntimeError as error:
                refused.append(error)

        async def main() -> None:
            thread = threading.Thread(target=call, args=[asyncio.get_running_loop()])
            thread.start()
            thread.join()

        net.run(main())
        assert "real=True" in str(refused[0])

    def test_io_is_refused(self, net: VirtualNetwork) -> None:
        with pytest.raises(RuntimeError, match="no I/O on virtual time"):
            net.run(asyncio.open_connection("127.0.0.1", 1))


class TestNodes:
    def test_they_find_each_other_and_talk(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b, c = await net.nodes("a", "b", "c")
            assert active(a) == active(b) == active(c) == ["a", "b", "c"]
            await b.register_agent("echo", ["echo"], handler=echo)
            assert await c.request("echo", b"hello") == b"hello"
            [found] = a.agents("echo")
            assert found.node_id == "b"
            await b.leave_network()
            assert net.living == ["a", "c"]

        net.run(main())

    def test_a_plain_handler_is_called_in_place(self, net: VirtualNetwork) -> None:
        def work(message: AgentMessage) -> str:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()  # as in a thread
            return threading.current_thread().name

        async def main() -> None:
            a, b = await net.nodes("a", "b")
            await b.register_agent("worker", handler=work)
            assert await a.request("worker", b"") == threading.current_thread().name
            assert await asyncio.to_thread(lambda: 7) == 7

        net.run(main())

    def test_more_than_a_pipe_holds(self, net: VirtualNetwork) -> None:
        async def main() -> list[bytes]:
            a, b = await net.nodes("a", "b")
            inbox = Inbox()
            await b.register_agent("inbox", handler=inbox)
            for number in range(100):
                await a.request("inbox", bytes([number]) * 30_000, timeout=60)
            return inbox.payloads

        assert net.run(main()) == [bytes([number]) * 30_000 for number in range(100)]

    def test_names_that_are_wrong(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            await net.nodes("a")
            with pytest.raises(ConfigError, match=r"restart\('a'\)"):
                await net.node("a")
            with pytest.raises(ConfigError, match="no node 'b'; there are: a"):
                net.partition(["a"], ["b"])
            with pytest.raises(ConfigError, match="node a runs"):
                await net.restart("a")
            with pytest.raises(ConfigError, match="only tcp://"):
                await net.node("c", listen=["tls://a:1"], certificate="x", private_key="y", ca="z")

        net.run(main())

    def test_one_that_joins_by_itself(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            [a] = await net.nodes("a")
            async with await net.make("b") as b:
                assert net.living == ["a"]
                await b.join_network(a.addresses)
                await net.settled()
                assert net.living == ["a", "b"]
            assert net.living == ["a"]

        net.run(main())

    def test_an_app_is_there_again_after_a_restart(self, net: VirtualNetwork) -> None:
        def app(node: AgentNetworkManager) -> None:
            node.agent(f"echo-{node.node_id}")(echo)

        async def main() -> None:
            a, _ = await net.nodes("a", "b", app=app)
            await net.crash("b")
            await net.until(lambda: active(a) == ["a"])
            restarted = await net.restart("b")
            assert net["b"] is restarted
            await net.settled()
            assert await a.request("echo-b", b"again") == b"again"

        net.run(main())

    def test_a_module_as_agentnet_run_takes_it(self, net: VirtualNetwork, tmp_path: Path) -> None:
        (tmp_path / "shouters.py").write_text(
            "def setup(net):\n"
            "    @net.agent('shouter')\n"
            "    async def shout(text: str) -> str:\n"
            "        return text.upper()\n"
        )

        async def main() -> None:
            [a] = await net.nodes("a")
            for _ in range(2):
                await net.process("p", "shouters:setup", path=[str(tmp_path)])
                await net.settled()
                assert await a.request("shouter", "hey") == "HEY"
                await net.crash("p")
                await net.until(lambda: active(a) == ["a"])

        net.run(main())


class TestFaults:
    def test_a_partition_heals(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b, c = await net.nodes("a", "b", "c")
            await b.register_agent("echo", handler=echo)
            net.partition(["a"], ["b", "c"])
            with pytest.raises(RequestTimeout):
                await a.request("echo", b"", timeout=1)
            assert await c.request("echo", b"") == b""
            await asyncio.sleep(30)
            assert active(a) == ["a"]
            assert active(b) == ["b", "c"]
            net.heal()
            await net.settled()
            assert await a.request("echo", b"") == b""

        net.run(main())

    def test_one_way(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            inbox = Inbox()
            await b.register_agent("inbox", handler=inbox)
            net.block("b", "a")
            with pytest.raises(RequestTimeout) as caught:
                await a.request("inbox", b"there, and not back", timeout=1)
            assert not caught.value.definite
            assert inbox.payloads == [b"there, and not back"]

        net.run(main())

    def test_a_crash_ends_handlers_where_they_are(self, net: VirtualNetwork) -> None:
        seen: list[str] = []

        async def work(message: AgentMessage) -> None:
            try:
                seen.append("begun")
                await asyncio.sleep(1)
                seen.append("done")
            finally:
                seen.append("tidied up")

        async def main() -> None:
            a, b = await net.nodes("a", "b")
            await b.register_agent("worker", handler=work)
            answer = a.request("worker", b"")
            mine = b.request("worker", b"")
            await asyncio.sleep(0.5)
            await net.crash("b")
            with pytest.raises(NetworkError):
                await mine
            with pytest.raises(LinkLost):
                await answer
            with pytest.raises(NotRunning):
                b.members()
            await asyncio.sleep(10)
            assert seen == ["begun"]
            with pytest.raises(ConfigError, match="does not run"):
                await net.crash("b")

        net.run(main())

    def test_a_node_may_crash_itself(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")

            async def end(message: AgentMessage) -> None:
                await net.crash("b")
                raise AssertionError("it went on")

            await b.register_agent("worker", handler=end)
            with pytest.raises(LinkLost):
                await a.request("worker", b"")
            await net.until(lambda: active(a) == ["a"])

        net.run(main())

    def test_of_a_silent_crash_nobody_is_told(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            await b.register_agent("echo", handler=echo)
            await net.crash("b", silently=True)
            began = net.clock.now
            assert active(a) == ["a", "b"]
            await net.until(lambda: active(a) == ["a"])
            assert net.clock.now - began > a.config.node_silence_ms_max / 1000
            await net.restart("b")
            await net.settled()

        net.run(main())

    def test_what_comes_for_a_paused_node_waits(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            inbox = Inbox()
            await b.register_agent("inbox", handler=inbox)
            net.pause("b")
            answer = a.request("inbox", b"x", timeout=60)
            await asyncio.sleep(2)
            assert inbox.payloads == []
            net.resume("b")
            assert await answer == 1

        net.run(main())

    @pytest.mark.parametrize("fault", ["cut", "half_open"])
    def test_a_connection_that_breaks_is_made_again(self, net: VirtualNetwork, fault: str) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            events = b.events()
            getattr(net, fault)("a", "b")
            async for event in events:
                if event.kind == Event.LINK_LOST:
                    break
            await b.register_agent("echo", handler=echo, timeout=60)
            await net.settled()
            assert await a.request("echo", b"", timeout=60) == b""

        net.run(main())

    def test_weather(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")
            await b.register_agent("echo", handler=echo)

            async def took() -> float:
                began = net.clock.now
                await a.request("echo", b"")
                return net.clock.now - began

            assert await took() < 0.01
            net.set_weather(Weather(delay_ns=(10**9, 10**9)), "a", "b")
            assert 1 < await took() < 1.1
            net.set_weather(Weather(stall=1.0, resend_ns=2 * 10**9))
            assert 4 < await took() < 5
            with pytest.raises(ConfigError, match="or neither"):
                net.set_weather(Weather(), "a")

        net.run(main())


class TestSeeds:
    async def history(self, net: VirtualNetwork) -> None:
        nodes = await net.nodes("a", "b", "c")
        for node in nodes:
            await node.register_agent(f"echo-{node.node_id}", handler=echo)
        for _ in range(3):
            victim = net.rng.choice("abc")
            net.partition([victim], [name for name in "abc" if name != victim])
            await asyncio.sleep(net.rng.random() * 8)
            net.heal()
            await net.settled()
            tasks = {asyncio.ensure_future(asyncio.sleep(net.rng.random())) for _ in range(10)}
            for task in tasks:  # the order of a set of tasks is the same in every run
                await task
            await nodes[0].request(f"echo-{victim}", str(net.clock.now))

    def play(self, seed: int) -> str:
        net = VirtualNetwork(seed)
        try:
            net.run(self.history(net))
            return net.trace
        finally:
            net.close()

    def test_one_seed_is_one_history(self) -> None:
        assert self.play(3) == self.play(3) != self.play(4)

    @pytest.mark.checkout
    def test_in_another_process_too(self) -> None:
        code = "from test_testing import TestSeeds; print(TestSeeds().play(3))"
        here = self.play(3)
        for hash_seed in ("1", "2"):
            environ = {
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            }
            done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=True)
            assert done.stdout.decode().strip() == here

    def test_the_module_random_is_seeded_and_given_back(self) -> None:
        import random

        before = random.getstate()
        drawn = []
        for _ in range(2):
            net = VirtualNetwork(9)

            async def draw() -> float:
                return random.random()

            drawn.append(net.run(draw()))
            net.close()
        assert drawn[0] == drawn[1]
        assert random.getstate() == before


class TestStalled:
    def test_nothing_is_to_come(self, net: VirtualNetwork) -> None:
        async def wait_for_ever() -> None:
            await asyncio.Event().wait()

        with pytest.raises(Stalled, match=r"nothing is to come.*\n.*the test\n.*wait_for_ever"):
            net.run(wait_for_ever())
        net.run(asyncio.sleep(1))  # and the loop is as good as before

    @pytest.mark.parametrize("partitioned", [False, True])
    def test_but_the_upkeep_of_nodes(self, net: VirtualNetwork, partitioned: bool) -> None:
        never = asyncio.Event()

        async def main() -> None:
            a, b = await net.nodes("a", "b")

            async def work(message: AgentMessage) -> None:
                await never.wait()

            await b.register_agent("stuck", handler=work)
            await a.send_message(AgentMessage(b"", to_agent="stuck"))
            await asyncio.sleep(1)
            if partitioned:
                net.partition(["a"], ["b"])
            await never.wait()

        with pytest.raises(Stalled, match="nothing has happened for 120 s") as caught:
            net.run(main())
        assert re.search(r"agent stuck on node b\n +at .*\(work\)", str(caught.value))

    def test_a_request_has_a_deadline_and_is_waited_for(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            a, b = await net.nodes("a", "b")

            async def work(message: AgentMessage) -> None:
                await asyncio.Event().wait()

            await b.register_agent("stuck", handler=work)
            with pytest.raises(RequestTimeout):
                await a.request("stuck", b"", timeout=400)

        net.run(main())

    def test_a_test_that_polls_for_ever(self, net: VirtualNetwork) -> None:
        async def main() -> None:
            while True:
                await asyncio.sleep(0)

        net.loop.turns_max = 1_000
        with pytest.raises(Stalled, match="1000 turns of the loop"):
            net.run(main())

    def test_a_callback_that_fails_fails_the_test(self, net: VirtualNetwork) -> None:
        def fail() -> None:
            raise ValueError("as told")

        async def main() -> None:
            asyncio.get_running_loop().call_later(1, fail)
            await asyncio.sleep(2)

        with pytest.raises(ValueError, match="as told"):
            net.run(main())


def test_what_is_left_at_the_end_is_ended() -> None:
    ended: list[str] = []

    async def linger(name: str) -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            ended.append(name)

    async def main(net: VirtualNetwork) -> list[Any]:
        _, b = await net.nodes("a", "b")

        async def work(message: AgentMessage) -> None:
            await linger("handler of a killed node")

        await b.register_agent("worker", handler=work)
        await b.send_message(AgentMessage(b"", to_agent="worker"))
        await asyncio.sleep(1)
        await net.crash("b")
        assert ended == []
        return [asyncio.ensure_future(linger("task of the test"))]

    net = VirtualNetwork()
    kept = net.run(main(net))
    net.close()
    assert sorted(ended) == ["handler of a killed node", "task of the test"]
    assert kept[0].cancelled()
