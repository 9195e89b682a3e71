"""Busy is not dead, on virtual time: what silence means, with a liveness port and without."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from harness import MS, UUID, Node, World

from agentnet_core import overlay
from agentnet_core.config import EngineConfig
from agentnet_core.liveness import Liveness
from agentnet_core.records import Event, Member, NodeStatus

ACTIVE, INACTIVE, DISCONNECTED = NodeStatus.ACTIVE, NodeStatus.INACTIVE, NodeStatus.DISCONNECTED


def member(node: Node, name: str) -> Member:
    node.engine.now_ns = node.clock.now_ns
    return next(member for member in node.control.members() if member.node_id == name)


def pair(**config: Any) -> tuple[World, Node, Node]:
    world = World()
    a, b = world.join("a", "b", config=EngineConfig(**config))
    world.run(1_000)
    return world, a, b


def test_a_port_is_tried_as_soon_as_the_link_is_up() -> None:
    world, a, b = pair()
    assert member(a, "b").liveness == member(b, "a").liveness == "port"
    assert member(a, "a").liveness == ""
    del world


def test_a_loop_that_blocks_for_a_minute_is_inactive_and_never_lost() -> None:
    world, a, b = pair()
    b.block("worker.py:7 in handle")
    began_ns = world.now_ns
    world.until(lambda: member(a, "b").status is INACTIVE, ms=4_000)
    world.run(60_000)
    seen = member(a, "b")
    lag_ms = (world.now_ns - began_ns) / MS
    assert (seen.status, seen.liveness) == (INACTIVE, "port")
    assert lag_ms - 1 <= seen.lag_ms <= lag_ms + 300
    assert not a.told(Event.LINK_LOST)
    [event] = a.told(Event.INACTIVE)
    assert event.node_id == "b"
    assert event.detail.endswith("in\nworker.py:7 in handle")
    b.unblock()
    world.until(lambda: member(a, "b").status is ACTIVE, ms=300)
    world.run(300)
    assert member(a, "b").lag_ms == 0
    assert [event.node_id for event in a.told(Event.ACTIVE)] == ["b"]
    for node in (a, b):
        assert not node.told(Event.LINK_LOST)
        assert not node.told(Event.LOST)
    assert len(b.told(Event.INACTIVE)) == 0  # it was the one that stood still


def test_what_is_asked_of_a_blocked_node_is_done_when_it_turns_again() -> None:
    world, a, b = pair()
    b.agent("echo", lambda message: message.payload)
    asker = a.agent("asker")
    b.block()
    answer = asker.request("echo", b"later", timeout=120)
    world.run(60_000)
    assert not answer.done
    b.unblock()
    world.until(lambda: answer.done, ms=100)
    assert answer.answer == b"later"


@pytest.mark.parametrize("count", [5, 15])
def test_a_stopped_process_is_known_within_six_seconds(count: int) -> None:
    world = World()
    nodes = world.join(*(f"n{number}" for number in range(count)))
    stopped, blocked, *others = nodes
    world.run(5_000)
    stopped.pause()
    blocked.block()
    world.run(6_000)
    for node in others:
        assert member(node, stopped.name).status is DISCONNECTED
        assert member(node, blocked.name).status is INACTIVE
        [lost] = node.told(Event.LINK_LOST)
        assert "silent for" in lost.detail
    stopped.unpause()
    blocked.unblock()
    world.run(10_000)
    assert world.agreed()
    for node in others:
        assert member(node, stopped.name).status is ACTIVE
        assert member(node, blocked.name).status is ACTIVE


def test_a_process_that_is_stopped_while_it_is_busy_is_lost() -> None:
    world, a, b = pair()
    b.block()
    world.run(30_000)
    b.pause()
    world.until(lambda: member(a, "b").status is DISCONNECTED, ms=6_000)
    assert member(a, "b").liveness == "port"


@pytest.mark.parametrize("has_ports", [True, False])
def test_without_a_port_the_silence_of_the_link_decides(has_ports: bool) -> None:
    """Not advertised, or shut off: the same, and the member says that busy and dead look alike."""
    world = World()
    a, b = world.node("a"), world.node("b", ports=has_ports)
    b.ports_open = False
    a.control.found(bytes(16))
    world.finish(b.join("a"))
    world.run(5_000)
    assert member(a, "b").liveness == "link"
    b.block()
    world.run(14_000)
    assert member(a, "b").status is ACTIVE
    world.until(lambda: a.told(Event.LINK_LOST), ms=4_000)
    assert "it may be busy or dead" in a.told(Event.LINK_LOST)[0].detail
    seen = member(a, "b")
    assert (seen.status, seen.liveness) == (DISCONNECTED, "link")
    b.unblock()
    world.until(world.agreed, ms=20_000)


def test_a_port_that_is_shut_off_later_is_not_relied_on() -> None:
    world, a, b = pair()
    assert member(a, "b").liveness == "port"
    b.ports_open = False
    world.run(25_000)
    assert member(a, "b").liveness == "link"
    b.block()
    world.run(10_000)
    assert member(a, "b").status is ACTIVE
    b.unblock()
    b.ports_open = True
    world.run(21_000)
    assert member(a, "b").liveness == "port"
    assert not a.told(Event.LINK_LOST)


def test_a_broken_link_of_a_node_that_turns_is_let_go() -> None:
    world, a, b = pair()
    a.link("b").mute()
    world.run(10_000)
    assert member(a, "b").status is ACTIVE
    assert not a.told(Event.LINK_LOST)
    world.until(lambda: a.told(Event.LINK_LOST) and b.told(Event.LINK_LOST), ms=7_500)
    assert not a.told(Event.INACTIVE)
    world.until(world.agreed, ms=10_000)


def test_a_link_that_broke_while_its_peer_was_blocked_is_let_go_after_that() -> None:
    world, a, b = pair()
    b.block()
    world.run(20_000)
    a.link("b").mute()
    b.unblock()
    world.until(lambda: a.told(Event.LINK_LOST), ms=18_000)


def test_a_loop_that_stood_itself_blames_nobody() -> None:
    world, a, b = pair()
    a.block()
    world.run(60_000)
    a.unblock()
    world.run(5_000)
    for node in (a, b):
        assert not node.told(Event.LINK_LOST)
    assert not a.told(Event.INACTIVE)
    assert member(a, "b").status is member(b, "a").status is ACTIVE


def test_lost_probes_are_not_taken_for_a_stopped_process() -> None:
    """One of two packets is lost, for a minute, while the loop stands."""
    world, a, b = pair()
    b.block()
    world.run(3_125)  # so that no packet is under way just as the ports open or close
    for number in range(240):
        world.after(number * 250, lambda odd=number % 3: setattr(b, "ports_open", odd == 0))
    world.run(60_000)
    assert member(a, "b").status is INACTIVE
    assert not a.told(Event.LINK_LOST)


def test_a_short_stop_loses_nothing() -> None:
    world, a, b = pair()
    for _ in range(20):
        b.pause()
        world.run(2_400)
        b.unpause()
        world.run(1_000 + world.rng.randrange(2_000))
    assert not a.told(Event.LINK_LOST)
    assert not a.told(Event.INACTIVE)


def test_the_event_waits_a_moment_for_the_stack() -> None:
    world, a, b = pair()
    b.block("")
    world.until(lambda: member(a, "b").status is INACTIVE, ms=4_000)
    assert not a.told(Event.INACTIVE)
    world.run(2_900)
    assert not a.told(Event.INACTIVE)
    world.until(lambda: a.told(Event.INACTIVE), ms=900)
    assert a.told(Event.INACTIVE)[0].detail.endswith(" ms")


def test_a_busy_node_keeps_its_id_from_a_newcomer() -> None:
    world, a, b = pair()
    b.block()
    world.run(1_000)
    again = Node(world, "b", incarnation=b.engine.incarnation + 1)
    world.nodes["again"] = again
    token = again.join("a")
    world.run(9_000)
    assert not a.told(Event.LINK_LOST)
    assert "is taken by a living node" in str(token.error)


def test_answers_on_links_that_are_gone_are_nothing() -> None:
    world, a, b = pair()
    session = a.link("b").session
    b.kill()
    world.run(100)
    a.control.alive(session, 5_000 * MS, "late")
    world.run(1_000)
    assert not a.told(Event.INACTIVE)


def test_limits_of_time_are_kept_for_short_settings() -> None:
    world, a, b = pair(
        ping_interval_ms=50, link_silence_ms_max=600, inactive_lag_ms=300, unreachable_ms_max=500
    )
    b.block()
    world.run(10_000)
    assert member(a, "b").status is INACTIVE
    assert not a.told(Event.LINK_LOST)
    b.pause()
    world.run(700)
    assert member(a, "b").status is DISCONNECTED


def test_a_node_that_is_too_busy_to_answer_refuses_nobody() -> None:
    world = World()
    m = world.node("m")
    m.control.found(UUID)
    n = world.node("n")
    m.block()
    joining = n.join("m")
    world.run(7_000)
    m.unblock()
    world.finish(joining, ms=9_000)
    assert sorted(n.engine.sessions) == ["m"]


class Noting:
    """A Liveness, and when it was given time."""

    def __init__(self, liveness: Liveness) -> None:
        self.liveness = liveness
        self.gaps: list[int] = []
        self.times: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.liveness, name)

    def tick(self, now_ns: int, gap_ns: int) -> int:
        self.gaps.append(gap_ns)
        self.times.append(now_ns)
        return self.liveness.tick(now_ns, gap_ns)


def test_a_rest_in_a_large_network_is_no_standing_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "CALM_NODES", 1)
    world = World()
    nodes = world.join(*"abcde")
    world.run(10_000)
    noting = Noting(nodes[0].control.liveness)
    nodes[0].control.liveness = noting  # type: ignore[assignment]
    gaps, times = noting.gaps, noting.times
    world.run(60_000)
    assert max(later - one for one, later in pairwise(times)) > 1_100 * MS, "it does not rest"
    assert max(gaps) <= 1_100 * MS
    nodes[0].pause()
    world.run(10_000)
    nodes[0].unpause()
    world.run(100)
    assert 10_000 * MS <= max(gaps) <= 11_100 * MS
