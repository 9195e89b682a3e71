"""Who is where: own agents, the lists of others, one owner for each id, and who has confirmed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentnet_core.agent_record import AgentRecord
from agentnet_core.claims import Applied
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.errors import AgentExists, LimitReached, NoSuchAgent, ProtocolError, UsageError
from agentnet_core.listing import Capabilities, Confirm, read_update, wire_form
from agentnet_core.records import agent_id_of

CONFIG = EngineConfig()


def agent(agent: int | str, *capabilities: str, **fields: Any) -> AgentRecord:
    name = agent if isinstance(agent, str) else None
    return AgentRecord(agent_id_of(agent), "", name, capabilities, **fields)


def directory(node_id: str, *agents: int | str, **limits: int) -> Directory:
    made = Directory(node_id, 1, EngineConfig(**limits))
    made.register([agent(a) for a in agents])
    made.take_changes()
    return made


def feed(to: Directory, node_id: str, bodies: Iterable[bytes]) -> Applied:
    """The last of what the frames did."""
    applied = Applied()
    for body in bodies:
        applied = to.apply(node_id, to.read(body))
    return applied


def whole(one: Directory, body_bytes: int = BODY_BYTES) -> list[bytes]:
    """Its own list, in frames of that size."""
    one.body_bytes = body_bytes
    return one.whole_list(one.node_id)


def confirm(version: int, conflicts: tuple[tuple[int, str], ...] = ()) -> Confirm:
    return Confirm("b", 1, version, conflicts=conflicts)


def ids(records: Iterable[AgentRecord]) -> list[int]:
    return [record.agent_id for record in records]


def conflicts(applied: Applied) -> list[tuple[int, str]]:
    return [conflict for body in applied.confirms for conflict in Confirm.decode(body).conflicts]


# -- the own list


NAMED = agent_id_of("named")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [1, 2, 3, NAMED]),
        ({"capability": "read"}, [1, 2]),
        ({"capability": "none"}, []),
        ({"name": "named"}, [NAMED]),
        ({"name": "named", "capability": "write"}, [NAMED]),
        ({"name": "named", "capability": "read"}, []),
        ({"name": "nobody"}, []),
        ({"metadata": {}}, [1, 2, 3, NAMED]),
        ({"metadata": {"zone": "a"}}, [1, 3]),
        ({"metadata": {"zone": "a", "gpu": "yes"}}, [3]),
        ({"metadata": {"zone": "a", "gpu": "no"}}, []),
        ({"metadata": {"zone": "a"}, "capability": "read"}, [1]),
        ({"healthy": True}, [2, 3, NAMED]),
        ({"healthy": False}, [1]),
        ({"healthy": False, "capability": "write"}, []),
        ({"healthy": True, "metadata": {"zone": "a"}}, [3]),
    ],
)
def test_agents_are_found_by_all_that_is_asked(asked: dict[str, Any], found: list[int]) -> None:
    one = directory("a")
    one.register(
        [
            agent(2, "read"),
            agent(1, "read", metadata={"zone": "a"}),
            agent(3, "write", metadata={"zone": "a", "gpu": "yes"}),
            agent("named", "write"),
        ]
    )
    one.say_health(1, "quota gone")
    assert ids(one.select(**asked)) == found


def test_the_health_of_an_agent_goes_out_alone() -> None:
    one, two = directory("a", "reader", 7, 9), directory("b")
    feed(two, "a", whole(one))
    one.take_changes()
    assert one.say_health(7, "quota gone")
    assert not one.say_health(7, "quota gone")
    assert not one.say_health(8, "nobody")
    (body,) = one.take_changes()
    update = read_update(body, Capabilities())
    assert [(record.agent_id, record.health) for record in update.records] == [(7, "quota gone")]
    applied = feed(two, "a", [body])
    assert (ids(applied.changed), applied.added, applied.removed) == ([7], [], [])
    assert {record.agent_id: record.health for record in two.agents() if record.health} == {7: "quota gone"}
    assert one.say_health(7, "")
    feed(two, "a", one.take_changes())
    assert [record.health for record in two.agents()] == ["", "", ""]


def test_an_agent_is_found_by_id_by_name_and_by_capability() -> None:
    one = directory("a")
    assert one.register([agent("reader", "read"), agent(7, "read", "write"), agent(9)]) == 1
    reader = one.get("reader")
    assert reader is not None
    assert reader is one.get(agent_id_of("reader"))
    assert reader.node_id == "a"
    assert one.get("nobody") is one.get(8) is one.get("\ud800") is None
    assert ids(one.find("read")) == sorted([7, agent_id_of("reader")])
    assert ids(one.find("write")) == [7]
    assert one.find("dance") == []
    assert ids(one.owned_by("a")) == [agent_id_of("reader"), 7, 9]
    assert ids(one.agents()) == sorted(ids(one.owned_by("a")))
    assert len(one) == 3
    assert one.is_mine(7)
    assert not one.is_mine(8)


def test_registering_again_replaces_and_unregistering_removes() -> None:
    one = directory("a")
    one.register([agent("reader", "read")])
    assert one.find("read")
    assert one.register([agent("reader", "write")]) == 2
    assert one.find("read") == []
    assert len(one.find("write")) == len(one) == 1
    gone = one.unregister([agent_id_of("reader")])
    assert one.version == 3
    assert ids(gone.removed) == [agent_id_of("reader")]
    assert one.find("write") == []
    with pytest.raises(NoSuchAgent, match="on 'a'"):
        one.unregister([agent_id_of("reader")])
    assert one.register([]) == one.version == 3
    assert one.unregister([]) == Applied()


def test_the_owner_of_a_taken_id_is_named() -> None:
    a, b = directory("a", "reader", 7), directory("b")
    feed(b, "a", whole(a))
    with pytest.raises(AgentExists, match="agent reader is registered on node 'a' already"):
        b.register([agent(1), agent("reader")])
    assert not b.is_mine(1), "all or none"
    with pytest.raises(AgentExists, match="is that of agent reader on node 'a'"):
        b.register([agent(agent_id_of("reader"))])
    with pytest.raises(AgentExists, match="is that of agent reader on node 'a'"):
        a.register([agent(agent_id_of("reader"))])
    with pytest.raises(AgentExists, match="agent 5 is named twice"):
        a.register([agent(5), agent(5)])
    assert b.version == 0


@pytest.mark.parametrize(
    ("record", "error", "said"),
    [
        (agent(0), UsageError, "agent id: expected an integer from 1 to"),
        (agent(2**64), UsageError, "agent id: expected an integer from 1 to"),
        (AgentRecord(True, ""), UsageError, "agent id: expected an integer from 1 to"),
        (AgentRecord(5, "", "reader"), UsageError, f"expected the id {agent_id_of('reader')}, got 5"),
        (AgentRecord(5, "", ""), UsageError, "agent name: expected a text, not empty"),
        (AgentRecord(5, "", "\ud800"), UsageError, "agent name: expected text that UTF-8 can hold"),
        (agent("x" * 257), LimitReached, "257 bytes, expected at most 256"),
        (agent("é" * 129), LimitReached, "258 bytes, expected at most 256"),
        (agent(5, *map(str, range(65))), LimitReached, "capabilities: 65, expected at most 64"),
        (agent(5, "x" * 129), LimitReached, "129 bytes, expected at most 128"),
        (agent(5, ""), UsageError, "capability: expected a text, not empty"),
        (agent(5, 7), UsageError, "capability: expected a text, not empty, got 7"),
        (agent(5, []), UsageError, r"capability: expected a text, not empty, got \[\]"),
        (agent(5, metadata=[1]), UsageError, "agent metadata: expected a map of texts"),
        (agent(5, metadata={"a": 1}), UsageError, "agent metadata: expected texts, got 1"),
        (agent(5, metadata={"a": "x" * 100}), LimitReached, "agent 5: .* over metadata_bytes_max=99"),
        (agent(5, "x" * 99), LimitReached, "agent 5: .* over metadata_bytes_max=99"),
    ],
)
def test_what_cannot_be_registered_is_said(record: AgentRecord, error: type[Exception], said: str) -> None:
    one = directory("a", metadata_bytes_max=99)
    with pytest.raises(error, match=said):
        one.register([agent(1), record])
    assert len(one) == one.version == 0


def test_agents_max_counts_all_nodes() -> None:
    a, b = directory("a", 1, 2), directory("b", 3, agents_max=4)
    feed(b, "a", whole(a))
    b.register([agent(3), agent(4)])
    with pytest.raises(LimitReached, match="agents_max=4: 4 agents are known, 1 more do not fit"):
        b.register([agent(4), agent(5)])
    b.unregister([3])
    b.register([agent(5)])


# -- updates


def test_a_change_holds_what_changed() -> None:
    a, b = directory("a", 1, 2, 3), directory("b")
    feed(b, "a", whole(a))
    a.register([agent(4, metadata={"k": "v"}, broadcasts=False), agent(1, "new")])
    a.unregister([2])
    a.register([agent(5)])
    a.unregister([5])
    frames = a.take_changes()
    applied = [feed(b, "a", [frame]) for frame in frames]
    assert [one.version for one in applied] == [2, 3, 4, 5]
    assert [ids(one.added) for one in applied] == [[4], [], [5], []]
    assert [ids(one.changed) for one in applied] == [[1], [], [], []]
    assert [ids(one.removed) for one in applied] == [[], [2], [], [5]]
    assert list(map(wire_form, b.agents())) == list(map(wire_form, a.agents()))
    answers = [Confirm.decode(body) for one in applied for body in one.confirms]
    assert answers == [Confirm("a", 1, version) for version in (2, 3, 4, 5)]
    assert a.take_changes() == []
    assert b.held("a") == (1, a.version)


def test_a_change_over_one_frame_is_several_versions() -> None:
    a, b = directory("a"), directory("b")
    a.body_bytes = 300
    assert a.register([agent(i) for i in range(1, 101)]) == a.version > 3
    frames = a.take_changes()
    assert max(map(len, frames)) <= 300
    for version, frame in enumerate(frames, 1):
        assert feed(b, "a", [frame]).version == version, "each by itself"
    assert ids(b.owned_by("a")) == list(range(1, 101))


def test_a_whole_list_again_changes_only_what_changed() -> None:
    a, b = directory("a", 1, 2, 3), directory("b")
    feed(b, "a", whole(a))
    kept = b.get(1)
    a.unregister([2])
    a.register([agent(3, "x"), agent(4)])
    applied = feed(b, "a", whole(a))
    assert (ids(applied.added), ids(applied.changed), ids(applied.removed)) == ([4], [3], [2])
    assert b.get(1) is kept


def test_a_long_list_is_cut_into_frames_and_swept_at_the_last() -> None:
    a, b = directory("a", *range(1, 400)), directory("b")
    frames = whole(a, 500)
    assert len(frames) > 5
    assert max(map(len, frames)) <= 500
    for body in frames:
        applied = feed(b, "a", [body])
        assert bool(applied.confirms) is bool(applied.version) is (body is frames[-1])
    a.unregister(range(2, 400))
    a.register([agent(i) for i in range(1000, 1300)])
    first, *rest = whole(a, 500)
    assert feed(b, "a", [first]).removed == []
    assert b.get(399) is not None, "not before the list has ended"
    broken_off = feed(b, "a", [rest[0]])
    assert broken_off.removed == []
    feed(b, "a", [first, *rest])
    assert list(map(wire_form, b.agents())) == list(map(wire_form, a.agents()))
    assert ids(b.owned_by("a")) == ids(a.owned_by("a"))


def test_a_record_larger_than_a_frame_goes_alone() -> None:
    a = directory("a")
    a.register([agent(1), agent(2, metadata={"k": "v" * 900}), agent(3)])
    assert [len(body) > 100 for body in whole(a, 100)] == [False, True, False]


def test_a_node_that_is_forgotten_takes_its_agents_along() -> None:
    a, b = directory("a", 1, 2), directory("b", 3)
    feed(b, "a", whole(a))
    assert ids(b.forget("a").removed) == [1, 2]
    assert b.forget("a").removed == []
    assert ids(b.agents()) == [3]
    assert b.owned_by("a") == []
    assert b.register([agent(1)])
    assert b.held("a") == (0, 0)


def test_a_record_over_a_limit_is_not_taken_and_reported_to_both() -> None:
    a = directory("a", 1, 2, 3)
    b = directory("b", agents_max=2)
    applied = feed(b, "a", whole(a))
    assert [(r.agent_id, why) for r, why in applied.refused] == [(3, "agents_max=2 is reached")]
    assert conflicts(applied) == [(3, "")]
    c = directory("c", metadata_bytes_max=20)
    feed(c, "a", whole(a))
    a.register([agent(1, metadata={"k": "v" * 20}), agent(2, metadata={"k": "v"})])
    applied = feed(c, "a", a.take_changes())
    assert [r.agent_id for r, _ in applied.refused] == [1]
    assert "over metadata_bytes_max=20" in applied.refused[0][1]
    assert c.get(1) is None, "what it was is not true any more"
    assert ids(c.agents()) == [2, 3]
    a.register([agent(1)])
    assert ids(feed(c, "a", a.take_changes()).added) == [1]


# -- one owner


def test_the_lower_node_keeps_the_id_and_the_other_is_told() -> None:
    a, b = directory("a", 7), directory("b", 7, 8)
    told_b = feed(b, "a", whole(a))
    assert [(r.agent_id, owner) for r, owner in told_b.lost_mine] == [(7, "a")]
    assert ids(told_b.added) == [7]
    assert told_b.removed == told_b.conflicts == []
    assert not b.is_mine(7)
    told_a = feed(a, "b", whole(directory("b", 7, 8)))
    assert told_a.conflicts == conflicts(told_a) == [(7, "a")]
    assert ids(told_a.added) == [8]
    feed(a, "b", whole(b))
    assert list(map(wire_form, a.agents())) == list(map(wire_form, b.agents()))
    assert [r.node_id for r in a.agents()] == [r.node_id for r in b.agents()] == ["a", "b"]


def test_a_name_that_hashes_to_a_taken_id_is_a_conflict_too() -> None:
    a, b = directory("a", agent_id_of("reader")), directory("b", "reader")
    assert len(feed(b, "a", whole(a)).lost_mine) == 1
    assert b.get("reader") is None
    assert b.get(agent_id_of("reader")) is not None


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_a_third_node_follows_whatever_comes_first(order: tuple[str, ...]) -> None:
    third = directory("d")
    third.register([agent(99, "x")])
    frames = {}
    for node_id in order:
        one = directory(node_id)
        one.register([agent(7, node_id)])
        frames[node_id] = whole(one)
        feed(third, node_id, frames[node_id])
        for capability in "abc":
            expected = min(frames) == capability
            assert bool(third.find(capability)) is expected, (order, node_id, capability)
    for node_id, heir in (("a", "b"), ("b", "c"), ("c", None)):
        third.forget(node_id)
        winner = third.get(7)
        assert (winner.node_id if winner else None) == heir


def test_a_claim_behind_the_owner_takes_over_when_it_goes() -> None:
    a, b, c = directory("a", 7), directory("b"), directory("c")
    feed(c, "a", whole(a))
    b.register([agent(7)])  # has seen that `a` gave it up, `c` has not
    applied = feed(c, "b", whole(b))
    assert applied.conflicts == [(7, "a")]
    (confirm,) = map(Confirm.decode, applied.confirms)
    assert b.concede("c", confirm).lost_mine == [], "hearsay"
    assert b.is_mine(7)
    a.unregister([7])
    applied = feed(c, "a", a.take_changes())
    assert [r.node_id for r in applied.added] == ["b"]
    assert [r.node_id for r in applied.removed] == ["a"]


def test_the_owners_own_word_counts() -> None:
    b = directory("b", 7, 8)
    applied = b.concede("a", confirm(1, ((7, "a"), (7, "a"), (8, ""), (9, "a"))))
    assert [(r.agent_id, owner) for r, owner in applied.lost_mine] == [(7, "a")]
    assert applied.removed == []
    assert b.version == 2
    assert b.get(7) is None
    assert b.is_mine(8)


@pytest.mark.parametrize("owner", ["b", "c"])
def test_a_conflict_that_cannot_be_is_refused(owner: str) -> None:
    b = directory("b", 7)
    with pytest.raises(ProtocolError, match="expected a node id below 'b'"):
        b.concede("a", confirm(1, ((7, owner),)))
    with pytest.raises(ProtocolError, match="CONFIRM version: expected at most 1, got 2"):
        b.concede("a", confirm(2))
    assert b.is_mine(7)


def test_many_conflicts_are_cut_into_frames() -> None:
    a, b = directory("a", *range(1, 301)), directory("b", *range(1, 301))
    a.body_bytes = 1000
    applied = feed(a, "b", whole(b))
    answers = [Confirm.decode(body) for body in applied.confirms]
    assert max(map(len, applied.confirms)) <= 1000
    assert [answer.last for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert [i for answer in answers for i, _ in answer.conflicts] == list(range(1, 301))


class Trio:
    """Three nodes, and between each two of them a queue each way that keeps its order."""

    def __init__(self) -> None:
        self.nodes = {node_id: directory(node_id) for node_id in "abc"}
        for one in self.nodes.values():
            one.body_bytes = 100
        self.queues: dict[tuple[str, str], deque[tuple[str, bytes]]]
        self.queues = {pair: deque() for pair in permutations("abc", 2)}
        self.cut = dict.fromkeys(self.queues, True)
        for pair in self.queues:
            self.link(*pair)

    def publish(self, source: str) -> None:
        changes = self.nodes[source].take_changes()
        for to in self.nodes:
            if to != source and not self.cut[source, to]:
                self.queues[source, to].extend(("agents", body) for body in changes)

    def link(self, one: str, other: str) -> None:
        for source, to in ((one, other), (other, one)):
            self.queues[source, to].clear()
            self.cut[source, to] = False
            for body in self.nodes[source].whole_list(source):
                self.queues[source, to].append(("agents", body))

    def lose(self, one: str, other: str) -> None:
        for source, to in ((one, other), (other, one)):
            self.queues[source, to].clear()
            self.cut[source, to] = True
            self.nodes[to].interrupt(source)
            self.nodes[to].forget(source)

    def register(self, node_id: str, agent_id: int, capability: str) -> None:
        try:
            self.nodes[node_id].register([agent(agent_id, capability)])
        except AgentExists:
            return
        self.publish(node_id)

    def unregister(self, node_id: str, agent_id: int) -> None:
        if self.nodes[node_id].is_mine(agent_id):
            self.nodes[node_id].unregister([agent_id])
            self.publish(node_id)

    def deliver(self, source: str, to: str) -> bool:
        queue = self.queues[source, to]
        if not queue:
            return False
        kind, body = queue.popleft()
        if kind == "agents":
            applied = feed(self.nodes[to], source, [body])
            for confirm in applied.confirms:
                self.queues[to, source].append(("confirm", confirm))
        else:
            applied = self.nodes[to].concede(source, Confirm.decode(body))
        if applied.lost_mine:
            self.publish(to)
        return True

    def settle(self) -> None:
        for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
            if self.cut[one, other]:
                self.link(one, other)
        for _ in range(10_000):
            delivered = [self.deliver(*pair) for pair in self.queues]
            if not any(delivered):
                return
        raise AssertionError("it does not come to rest")

    def check(self) -> None:
        for one in self.nodes.values():
            for capability in ("x", "y"):
                brute = [r for r in one.agents() if capability in r.capabilities]
                assert one.find(capability) == brute
            assert sum(len(one.owned_by(node_id)) for node_id in self.nodes) == len(one)


PAIRS = list(permutations("abc", 2))
VERBS = {"deliver": 60, "register": 20, "unregister": 15, "link": 2, "lose": 3}


def step(trio: Trio, rng: Random) -> None:
    (verb,) = rng.choices(list(VERBS), list(VERBS.values()))
    if verb in ("deliver", "link", "lose"):
        getattr(trio, verb)(*rng.choice(PAIRS))
    elif verb == "register":
        trio.register(rng.choice("abc"), rng.randint(1, 2), rng.choice("xy"))
    else:
        trio.unregister(rng.choice("abc"), rng.randint(1, 2))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_three_directories_agree_whatever_the_order(seed: int) -> None:
    rng = Random(seed)
    trio = Trio()
    for _ in range(30):
        for _ in range(rng.randint(1, 20)):
            step(trio, rng)
            trio.check()
        trio.settle()
        trio.check()
        views = [[(r.node_id, *wire_form(r)) for r in one.agents()] for one in trio.nodes.values()]
        assert views[0] == views[1] == views[2]
        for record in trio.nodes["a"].agents():
            owners = [node_id for node_id, one in trio.nodes.items() if one.is_mine(record.agent_id)]
            assert owners == [record.node_id]


def test_found_agents_stay_right_while_nobody_asks() -> None:
    one = directory("a")
    assert one.find("x") == []
    for _ in range(3000):
        one.register([agent(1, "x")])
        one.unregister([1])
    one.register([agent(1, "x"), agent(2, "x", "x")])
    assert ids(one.find("x")) == [1, 2]
    for i in range(1500):
        assert one.find(f"nobody {i}") == []
    assert ids(one.find("x")) == [1, 2]
