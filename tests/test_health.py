"""Agents that say how they are: by a function that is asked again and again, or at once."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest
from commands import called
from networks import Cluster, echo, soon, until

from agentnet import AgentNetworkManager, AgentSpec, ConfigError, NoSuchAgent, NotRunning
from agentnet.testing import Network

FAST = {"health_interval_ms": 20, "health_ms_max": 200}


def health(net: AgentNetworkManager, name: str) -> str:
    return next(agent.health for agent in net.agents() if agent.name == name)


async def shows(nets: list[AgentNetworkManager], name: str, text: str) -> None:
    await until(lambda: [health(net, name) for net in nets] == [text] * len(nets))


class Answers:
    """A health function that says what it is told to."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def as_async(answers: Answers) -> Any:
    async def ask() -> Any:
        return answers()

    return ask


@pytest.mark.parametrize("kind", ["plain", "async", "wrapped"])
async def test_every_node_shows_what_the_function_says(cluster: Cluster, kind: str) -> None:
    nets = await cluster.start("n1", "n2", **FAST)
    answers = Answers("model not loaded")

    def wrapped() -> Any:
        return as_async(answers)()

    function = {"plain": answers, "async": as_async(answers), "wrapped": wrapped}[kind]
    await nets[0].register_agent("x", ["c"], echo, health=function)
    await shows(nets, "x", "model not loaded")
    (three,) = await cluster.start("n3")
    await shows([*nets, three], "x", "model not loaded")
    answers.answer = None
    await shows([*nets, three], "x", "")
    answers.answer = ValueError("no such file")
    await shows(nets, "x", "health check failed: ValueError: no such file")
    answers.answer = 7
    await shows(nets, "x", "health check failed: it returned 7, expected None or a text")
    assert await soon(nets[1].request("x", b"still")) == b"still"


async def test_one_that_does_not_answer_in_time(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2", **FAST)
    enough, calls = threading.Event(), Answers()

    def hang() -> None:
        calls()
        enough.wait()

    async def hang_async() -> None:
        await asyncio.Event().wait()

    await nets[0].register_agents(
        [AgentSpec(agent="x", health=hang), AgentSpec(agent="y", health=hang_async)]
    )
    for name in ("x", "y"):
        await shows(nets, name, "did not answer in 200 ms")
    assert calls.asked == 1  # it hangs in its thread still
    enough.set()
    await shows(nets, "x", "")
    assert health(nets[1], "y") == "did not answer in 200 ms"


async def test_a_coroutine_that_comes_after_its_agent_went_is_closed(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1", **FAST)
    begun, enough, made = threading.Event(), threading.Event(), []

    def wrapped() -> Any:
        begun.set()
        enough.wait()
        made.append(as_async(Answers())())
        return made[0]

    await net.register_agent("x", health=wrapped)
    await until(begun.is_set)
    await net.unregister_agent("x")
    enough.set()
    await until(lambda: bool(made) and inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED)


async def test_threads_that_are_all_busy_say_nothing_of_an_agent(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2", handler_threads=1, health_interval_ms=20, health_ms_max=50)
    enough, begun = threading.Event(), threading.Event()

    def work(message: Any) -> None:
        begun.set()
        enough.wait()

    answers = Answers()
    await one.register_agent("works", handler=work)
    asking = two.request("works", b"")
    await until(begun.is_set)
    await one.register_agent("x", health=answers)
    await one.register_agent("y", health=as_async(clock := Answers()))
    await until(lambda: clock.asked > 5)  # more than 50 ms have gone
    assert (health(two, "x"), answers.asked) == ("", 0)
    enough.set()
    await soon(asking)
    await until(lambda: answers.asked)


async def test_an_agent_says_it_at_once(cluster: Cluster) -> None:
    nets = await cluster.start("n1", "n2")
    agent = await nets[0].register_agent("x", handler=echo)
    agent.report_health("quota gone")
    assert health(nets[0], "x") == "quota gone"
    await shows(nets, "x", "quota gone")
    agent.report_health("\u00e9" * 500)
    await shows(nets, "x", "\u00e9" * 128)
    agent.report_health(None)
    await shows(nets, "x", "")
    with pytest.raises(ConfigError, match="agent x: health 5: expected a text or None"):
        agent.report_health(5)  # type: ignore[arg-type]
    again = await nets[0].register_agent("x", handler=echo)
    with pytest.raises(NoSuchAgent, match="agent x is not registered any more"):
        agent.report_health("no")
    await nets[0].leave_network()
    with pytest.raises(NotRunning):
        again.report_health("no")


async def test_it_is_asked_no_more_once_it_is_gone(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1", **FAST)
    tasks = asyncio.all_tasks()
    answers, other = Answers(), Answers()
    await net.register_agent("x", health=answers)
    await until(lambda: answers.asked)
    await net.register_agent("x", health=other)
    await until(lambda: other.asked)
    await net.unregister_agent("x")
    await until(lambda: asyncio.all_tasks() <= tasks)


@pytest.mark.parametrize(
    ("function", "said"),
    [(5, "health 5 is not callable"), (lambda message: None, "health takes no argument")],
)
async def test_what_cannot_be_one(cluster: Cluster, function: Any, said: str) -> None:
    (net,) = await cluster.start("n1")
    with pytest.raises(ConfigError, match=said):
        await net.register_agent("x", health=function)
    assert net.agents() == []


async def test_it_is_asked_in_virtual_time_too(network: Network) -> None:
    one, two = await network.nodes("n1", "n2")
    answers = Answers("warming up")

    async def hang() -> None:
        await asyncio.sleep(3600)

    await one.register_agent("x", health=answers)
    await one.register_agent("y", health=hang)
    await asyncio.sleep(3)
    assert [health(two, name) for name in ("x", "y")] == ["warming up", "did not answer in 2000 ms"]
    answers.answer = None
    await asyncio.sleep(6)
    assert [agent.name for agent in two.agents(healthy=True)] == ["x"]


async def test_who_is_well_is_found(cluster: Cluster) -> None:
    one, two = await cluster.start("n1", "n2")
    made = await one.register_agents(
        [
            AgentSpec(agent=number, capabilities=["work"], metadata={"gpu": str(number % 2)})
            for number in (1, 2, 3)
        ]
    )
    made[0].report_health("quota gone")
    await until(lambda: len(two.agents("work", healthy=True)) == 2)
    assert [agent.agent_id for agent in two.agents("work", metadata={"gpu": "1"}, healthy=True)] == [3]
    assert [agent.agent_id for agent in two.agents(healthy=False)] == [1]


async def test_the_command_shows_it(cluster: Cluster) -> None:
    (net,) = await cluster.start("n1")
    agent = await net.register_agent("x")
    agent.report_health("quota gone")
    done = await called("agents", "--join", net.addresses[0])
    assert "quota gone" in done.out
    (row,) = (await called("agents", "--join", net.addresses[0], "--json")).document
    assert row["health"] == "quota gone"
