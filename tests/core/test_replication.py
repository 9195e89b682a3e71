"""States of nodes in the simulator: what is changed on one is soon on all, whatever was lost, and bad
input changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness import UUID, Node, Token, World
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import History, changed, equal, grow, hold, write
from strangers import Stranger

from agentnet_core import comparing, gossip, naming, replication
from agentnet_core.admission import Admission
from agentnet_core.clock import HybridClock, VectorClock
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.crdt import EWFlag, LWWRegister, ORSet, PNCounter, Site
from agentnet_core.dots import CausalContext
from agentnet_core.errors import LimitReached, ProtocolError, TooFewReplicas, UsageError
from agentnet_core.handshake import FEATURE_STATES, Hello
from agentnet_core.parts import (
    ACK,
    ANSWER,
    ASK,
    CHUNK_BYTES,
    CONTEXT,
    DELTA,
    FETCH,
    KEEP,
    KEPT,
    LIVE,
    MORE,
    PART,
    RANGES,
    READ,
    STATE,
    STATE_CHUNK,
    VIEWS,
    WINDOW_CHUNKS,
    read,
    read_chunk,
    write_chunk,
    write_prints,
    write_sums,
)
from agentnet_core.parts import write as write_body
from agentnet_core.quorums import Quorums
from agentnet_core.session import Session
from agentnet_core.states import SHARES, STATE_OVERHEAD_BYTES, Key

SET = Key(ORSet(Site(None, bytes(16))).type_code, "s")
FLAG = EWFlag(Site(None, bytes(16))).type_code
REGISTER = LWWRegister(Site(None, bytes(16))).type_code


def add(node: Node, *elements: Any) -> None:
    held = hold(node, ORSet, "s")
    for element in elements:
        held.state.add(element)  # type: ignore[attr-defined]
    changed(node, held)


def elements(node: Node) -> set[Any]:
    held = node.control.replication.states.get(SET)
    return held.state.value if held is not None else set()


# -- what converges


def test_a_change_is_on_all_nodes_in_one_trip() -> None:
    world = World()
    nodes = world.join(*"abcde")
    world.run(1000)
    add(nodes[0], 1, 2)
    before = world.now_ns
    world.until(lambda: all(elements(node) == {1, 2} for node in nodes))
    assert world.now_ns - before < 1_000_000
    assert equal(nodes)


def test_what_is_changed_in_one_turn_leaves_as_one_frame() -> None:
    world = World()
    one, other = world.join("a", "b")
    world.run(1000)
    heard = []
    receive = other.control.replication.receive
    other.control.replication.receive = lambda *frame: (heard.append(frame), receive(*frame))  # type: ignore[assignment]
    for number in range(100):
        add(one, number)
        held = hold(one, PNCounter, f"counter {number}")
        held.state.increment()  # type: ignore[attr-defined]
        changed(one, held)
    world.until(lambda: equal([one, other]))
    assert len(heard) == 1


def test_who_joins_later_gets_all_that_is_there() -> None:
    world = World()
    one, other = world.join("a", "b")
    add(one, *range(5000))
    held = hold(other, EWFlag, "f")
    held.state.enable()  # type: ignore[attr-defined]
    changed(other, held)
    late = world.node("c")
    world.finish(late.join("a"))
    world.until(lambda: equal([one, other, late]), ms=1000)
    assert len(elements(late)) == 5000


def test_where_not_all_are_linked_changes_go_on_the_tree() -> None:
    world = World()
    config = EngineConfig(mesh_nodes_max=4, overlay_rings=2, state_sync_ms=500)
    nodes = grow(world, 9, config)
    assert any(len(node.engine.sessions) < 8 for node in nodes)
    add(nodes[0], "small")
    world.until(lambda: all("small" in elements(node) for node in nodes), ms=2000)
    add(nodes[1], *(f"{number} " + "l" * 500 for number in range(200)))  # no broadcast takes that
    world.until(lambda: equal(nodes), ms=5000)
    assert len(elements(nodes[0])) == 201
    replication = nodes[0].control.replication
    key = SET
    assert len(replication.replicas(key)) == 3
    assert replication.replicas(key) == nodes[5].control.replication.replicas(key)
    held = hold(nodes[0], ORSet, "s")
    held.state.add("asked")  # type: ignore[attr-defined]
    token = write(nodes[0], held, 2, replication.replicas(key))
    nodes[0].turn()
    world.finish(token)


def test_a_node_that_knows_of_no_states_passes_changes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in three is of an older release: the tree needs its links, and nothing of states is said to it."""
    world = World()
    config = EngineConfig(mesh_nodes_max=4, overlay_rings=2, state_sync_ms=500)
    nodes = [world.node(f"n{number}", config=config) for number in range(12)]
    old = nodes[1::3]
    hello = Admission._hello

    def hello_of(self: Admission, session: Session) -> Hello:
        made = hello(self, session)
        is_old = made.node_id in {node.name for node in old}
        return replace(made, features_optional=made.features_optional & ~FEATURE_STATES) if is_old else made

    monkeypatch.setattr(Admission, "_hello", hello_of)
    heard: list[int] = []
    for node in old:
        del node.control.broadcasts._takers[gossip.STATES]
        node.control.replication.receive = lambda *frame: heard.append(frame[1])  # type: ignore[method-assign]
    nodes[0].control.found(UUID)
    for node in nodes[1:]:
        world.finish(node.join("n0"))
    world.until(lambda: all(len(node.control.membership) == len(nodes) for node in nodes))
    add(nodes[0], "news")
    world.until(lambda: all("news" in elements(node) for node in nodes if node not in old), ms=2_000)
    assert not heard
    assert not any(elements(node) for node in old)


def test_where_nodes_sign_changes_on_the_tree_are_their_origins() -> None:
    world = World(secure=True)
    config = EngineConfig(mesh_nodes_max=4, overlay_rings=2, state_sync_ms=60_000)
    nodes = grow(world, 9, config)
    add(nodes[0], "signed")
    world.until(lambda: all("signed" in elements(node) for node in nodes), ms=2000)
    key, data = SET, made_by("n1:1", "forged")
    nodes[2].control.broadcasts.offer(gossip.STATES, write_body(DELTA, 0, [(key, data)]))
    nodes[2].turn()
    others = [node for node in nodes if node.name != "n2"]
    world.until(lambda: all(node.control.replication.refused == 1 for node in others), ms=2000)
    assert not any("forged" in elements(node) for node in nodes)


def test_a_large_state_lets_messages_pass() -> None:
    world = World()
    one, other = world.join("a", "b")
    world.partition(["a"], ["b"])
    add(one, *(f"{number} " + "l" * 500 for number in range(20_000)))  # 10 MB
    world.run(20_000)
    world.heal()
    world.until(lambda: "b" in one.engine.sessions)
    world.until(lambda: one.control.replication.transfers.waiting[0], ms=20_000)
    source = one.agent("source")
    other.agent("echo", lambda message: message.payload)
    answer = source.request("echo", b"in between")
    world.finish(answer)
    assert not equal([one, other])
    world.until(lambda: equal([one, other]), ms=60_000)
    world.until(lambda: one.control.replication.transfers.waiting == (0, 0))


@pytest.mark.parametrize("seed", range(12))
def test_histories(seed: int) -> None:
    """``python -m tests.replicas`` plays more of them."""
    History(seed).play()


# -- writes and reads that wait


def test_a_write_waits_for_its_replicas() -> None:
    world = World()
    nodes = world.join(*"abc")
    held = hold(nodes[0], ORSet, "s")
    held.state.add(1)  # type: ignore[attr-defined]
    token = write(nodes[0], held, 3, ("a", "b", "c"))
    assert not token.done
    world.finish(token)
    assert all(elements(node) == {1} for node in nodes)


def test_a_write_outlives_a_link() -> None:
    world = World()
    nodes = world.join(*"abc", config=EngineConfig(state_sync_ms=60_000))
    held = hold(nodes[0], ORSet, "s")
    nodes[0].link("b").cut()
    nodes[0].link("c").cut()
    held.state.add(1)  # type: ignore[attr-defined]
    token = write(nodes[0], held, 2, ("a", "b", "c"))
    world.finish(token)


def test_without_enough_replicas_a_write_fails_and_stays() -> None:
    world = World()
    nodes = world.join(*"abc")
    world.partition(["a"], ["b", "c"])
    held = hold(nodes[0], ORSet, "s")
    held.state.add(1)  # type: ignore[attr-defined]
    token = write(nodes[0], held, 2, ("a", "b", "c"))
    world.until(lambda: token.done)
    assert isinstance(token.error, TooFewReplicas)
    assert not token.error.definite
    assert elements(nodes[0]) == {1}
    world.until(lambda: not nodes[0].control.membership.alive()[1:])
    with pytest.raises(TooFewReplicas, match="1 of 3 live .a.; not b, c; nothing was done") as refusal:
        nodes[0].control.replication.check_reach(SET, 2, ("a", "b", "c"))
    assert refusal.value.definite
    world.heal()
    world.until(lambda: elements(nodes[1]) == {1})


def test_a_read_merges_what_replicas_have_and_mends_them() -> None:
    world = World()
    nodes = world.join(*"abc", config=EngineConfig(state_sync_ms=60_000))
    for node in nodes:  # each change is lost
        hold(node, ORSet, "s").state.add(node.name)  # type: ignore[attr-defined]
        hold(node, ORSet, "s").state.delta.encode()
        node.control.replication.states.touched(hold(node, ORSet, "s"))
    token, replication = Token(), nodes[0].control.replication
    replication.quorums.admit()
    nodes[0].engine.now_ns = world.now_ns
    replication.read(hold(nodes[0], ORSet, "s"), 3, ("a", "b", "c"), token)
    nodes[0].turn()
    world.finish(token)
    assert elements(nodes[0]) == {"a", "b", "c"}
    world.until(lambda: equal(nodes), ms=1000)


# -- bad input


class Bad:
    """A node, and a stranger who says what no node would."""

    def __init__(self, **limits: int) -> None:
        self.world = World()
        self.node = self.world.node("m", config=EngineConfig(**limits))
        self.node.control.found(UUID)
        self.stranger = Stranger(self.world, self.node, name="a")
        self.stranger.introduce()
        add(self.node, "mine")
        self.world.run(10)
        self.before = hold(self.node, ORSet, "s").state.encode()

    def say(self, verb: int, *rest: Any) -> None:
        self.stranger.say(STATE, write_body(verb, *rest))
        self.world.run(10)

    def heard(self, verb: int) -> list[list[Any]]:
        bodies = [read(body) for body in self.stranger.bodies(STATE)]
        return [parts for what, parts in bodies if what == verb]

    def check_refused(self, count: int, error: str) -> None:
        assert self.node.control.stats()["states_refused"] == count
        kind = "state_contradiction" if error == "Contradiction" else "state_refused"
        assert self.node.control.stats()["states_contradicted"] == (error == "Contradiction")
        event = self.node.told(kind)[-1]
        assert type(event.error).__name__ == error, event
        assert event.node_id == "a"
        assert hold(self.node, ORSet, "s").state.encode() == self.before
        assert self.stranger.ended is None


def made_by(actor: str, element: Any = "x") -> bytes:
    state = ORSet(Site(actor, bytes(16), EngineConfig(state_key_bytes_max=4096)))
    state.add(element)
    return state.delta.encode()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (made_by("b:1"), "NotOwner"),
        (made_by("a.2"), "NotOwner"),
        (made_by("m:1", "forged"), "NotOwner"),
        (b"", "ProtocolError"),
        (made_by("a:1")[:-1], "ProtocolError"),
        (made_by("a:1", "k" * 1025), "LimitReached"),
        (b"\xc1" * 100, "ProtocolError"),
    ],
)
def test_a_change_that_is_not_right_is_refused_and_the_rest_is_taken(data: bytes, error: str) -> None:
    bad = Bad()
    flag = EWFlag(Site("a:1", bytes(16)))
    flag.enable()
    bad.say(DELTA, 5, [(SET, data), (Key(FLAG, "f"), flag.delta.encode())])
    bad.check_refused(1, error)
    ((serial, refusals),) = bad.heard(ACK)
    assert serial == 5
    assert [number for number, _, _ in refusals] == [0]
    assert hold(bad.node, EWFlag, "f").state.value is True


def test_a_forged_event_of_this_node_is_a_contradiction() -> None:
    bad = Bad()
    state = ORSet(Site("m:1", bytes(16)))
    for element in range(5):
        state.add(element)
    bad.say(5, SET, state.encode(), 7, False)
    bad.check_refused(1, "Contradiction")


def test_one_event_of_two_contents_is_a_contradiction() -> None:
    bad = Bad()
    bad.say(DELTA, 0, [(SET, made_by("a:1", "x"))])
    bad.before = hold(bad.node, ORSet, "s").state.encode()
    bad.say(DELTA, 0, [(SET, made_by("a:1", "y"))])
    bad.check_refused(1, "Contradiction")


def test_a_stamp_ten_years_ahead_does_not_freeze_a_key() -> None:
    bad = Bad()
    state = LWWRegister(Site("a:1", bytes(16)))
    now_ns = bad.world.now_ns + bad.node.engine.wall_offset_ns
    state.set("for ever", HybridClock(60_000).stamp(now_ns + 10 * 365 * 86_400 * 10**9))
    bad.say(DELTA, 0, [(Key(REGISTER, "r"), state.delta.encode())])
    bad.check_refused(1, "FromFuture")
    held = hold(bad.node, LWWRegister, "r")
    held.state.set("now", bad.node.control.replication.stamp())  # type: ignore[attr-defined]
    assert held.state.value == "now"


def test_a_type_that_is_not_known_is_refused() -> None:
    bad = Bad()
    bad.say(DELTA, 0, [(Key(127, "s"), made_by("a:1"))])
    bad.check_refused(1, "ProtocolError")


def test_states_beyond_the_limit_are_refused() -> None:
    bad = Bad(states_max=2, states_bytes_max=2 * STATE_OVERHEAD_BYTES + 64)
    bad.say(DELTA, 0, [(Key(SET.code, "t"), made_by("a:1"))])
    assert bad.node.control.stats()["states_refused"] == 0
    bad.say(DELTA, 0, [(Key(SET.code, "u"), made_by("a:1"))])
    bad.check_refused(1, "LimitReached")
    bad.say(DELTA, 0, [(Key(SET.code, "t"), made_by("a:1", "long" * 20))])
    bad.check_refused(2, "LimitReached")
    with pytest.raises(LimitReached):
        hold(bad.node, ORSet, "of the node itself")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (STATE, b""),
        (STATE, b"\x90"),
        (STATE, b"\x91\x63"),
        (STATE, write_body(CONTEXT, SET, b"\xc1", 0, True)),
        (STATE, write_body(FETCH, SET, b"\x81\xa1a\x91\x00")),
        (STATE, b"\xdd\xff\xff\xff\xff"),
        (STATE, write_body(ASK, 7, b"\xc1")),
        (STATE, write_body(ASK, 7, write_body(CONTEXT, SET, b"\x80", 0, True))),
        (STATE, write_body(VIEWS, 7, bytes(512), True, [[[["a", -1]], []]])),
        (STATE, write_body(VIEWS, 7, bytes(511), True, [])),
        (STATE, write_body(VIEWS, 7, bytes(512), True, [[[], []]] * 65)),
        (STATE_CHUNK, b"\x94\x01\x05\x06\xc4\x01x"),
    ],
)
def test_frames_that_break_the_form_close_the_link(kind: int, body: bytes) -> None:
    bad = Bad()
    bad.stranger.say(kind, body)
    bad.world.until(lambda: bad.stranger.ended)
    assert hold(bad.node, ORSet, "s").state.encode() == bad.before
    assert bad.node.control.stats()["states_refused"] == 1
    (event,) = bad.node.told("state_refused")
    assert (event.node_id, type(event.error).__name__) == ("a", "ProtocolError")


def test_a_body_that_is_too_large_is_refused_before_it_comes() -> None:
    bad = Bad(state_bytes_max=100_000, state_elements_max=10)
    most = 2 * 100_000 + 64 * 10
    bad.stranger.say(STATE_CHUNK, write_chunk(1, 0, most + 1, b"x" * 100))
    bad.world.run(10)
    bad.check_refused(1, "LimitReached")
    assert bad.heard(MORE) == [[1, 0, 0]]
    bad.stranger.say(STATE_CHUNK, write_chunk(2, 0, most, b"x" * 100))
    bad.world.run(10)
    bad.check_refused(1, "LimitReached")
    assert bad.heard(MORE)[-1][1:] == [100, WINDOW_CHUNKS * CHUNK_BYTES]


def test_questions_about_nothing_are_answered_with_nothing() -> None:
    bad = Bad()
    nobody = Key(SET.code, "nobody")
    bad.say(CONTEXT, nobody, CausalContext().encode(), 0, True)
    bad.say(FETCH, nobody, CausalContext({"x": 5}).encode())
    bad.say(6, nobody, [("x", 0, 5, 7)])
    bad.say(READ, 3, nobody, 7)
    bad.say(ANSWER, 77, 5, b"late")
    bad.say(ACK, 77, [])
    assert bad.heard(ANSWER) == [[3, 0, b""]]
    assert bad.node.control.replication.states.get(nobody) is None
    assert bad.stranger.ended is None


def test_a_change_as_large_as_a_frame_holds_goes_in_one() -> None:
    world = World()
    one, other = world.join("a", "b")
    add(one, *(bytes(600) + bytes([number % 256]) for number in range(60)))
    add(one, *(f"{number}" * 100 for number in range(BODY_BYTES // 100)))
    world.until(lambda: equal([one, other]), ms=2000)
    with pytest.raises(UsageError):
        hold(one, int, "s")


CONTEXT_OF_A = CausalContext({"a:1": 3, "m:1": 1}).encode()
GOOD = [
    write_body(DELTA, 1, [(SET, made_by("a:1")), (Key(FLAG, "f"), b"")]),
    write_body(KEEP, 2, [(SET, made_by("a:1"))]),
    write_body(ACK, 1, [(0, 5, "no")]),
    write_body(KEPT, 1, [(0, 5, "no")]),
    write_sums([7] * SHARES, fresh=True),
    *write_prints(3, [(SET, 9), (Key(FLAG, "f"), 2**64 - 1)]),
    write_body(CONTEXT, SET, CONTEXT_OF_A, 5, True),
    write_body(PART, SET, made_by("b:1"), 5, True),
    write_body(RANGES, SET, [("a:1", 0, 5, 7), ("m:1", 0, 1, 7)]),
    write_body(FETCH, SET, CONTEXT_OF_A),
    write_body(READ, 3, SET, 7),
    write_body(ANSWER, 3, 7, made_by("b:1")),
    write_body(MORE, 1, 100, 100),
    write_body(LIVE, SET, CONTEXT_OF_A, CONTEXT_OF_A),
]


@st.composite
def frames(draw: st.DrawFn) -> tuple[int, bytes]:
    """What a node may say, with a few bytes of it changed, cut, or taken from another."""
    body = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                body[at] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC4, 0xCF, 0xDD, 0xFF)))
            case 1:
                body[at] = draw(st.integers(0, 255))
            case 2:
                body[at:] = draw(st.sampled_from(GOOD))[at:] or b"\x00"
            case _:
                body[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9)) or b"\xc0"
    if draw(st.integers(0, 9)) == 0:
        offset, size = draw(st.integers(0, 10)), draw(st.sampled_from((0, 10, BODY_BYTES + 1, 2**32 - 1)))
        return STATE_CHUNK, write_chunk(1, offset, size, bytes(body))
    return STATE, bytes(body)


@settings(max_examples=150, deadline=None)
@given(st.lists(frames(), min_size=1, max_size=6))
def test_whatever_a_peer_says_of_states_a_node_goes_on(said: list[tuple[int, bytes]]) -> None:
    """It takes, refuses and tells, or closes that one link; what it holds is right, and others can ask it."""
    bad = Bad()
    for kind, body in said:
        if bad.stranger.ended is None:
            bad.stranger.say(kind, body)
            bad.world.run(10)
    stats = bad.node.control.stats()
    told = len(bad.node.told("state_refused")) + len(bad.node.told("state_contradiction"))
    assert told == stats["states_refused"] >= (bad.stranger.ended is not None)
    states = bad.node.control.replication.states
    for share in range(SHARES):
        for held in states.share(share):
            again = type(held.state).decode(held.state.encode(), Site(None, bytes(16)))
            assert (again.encode(), again.value) == (held.state.encode(), held.state.value)
            assert (again.sum, again.context.encode()) == (held.state.sum, held.state.context.encode())
    add(bad.node, "after")
    other = Stranger(bad.world, bad.node, name="c")
    other.introduce()
    other.say(STATE, write_body(READ, 1, SET, 0))
    bad.world.run(10)
    answers = [parts for verb, parts in map(read, other.bodies(STATE)) if verb == ANSWER]
    assert "after" in ORSet.decode(answers[0][2], Site(None, bytes(16))).value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_protocol_error(data: bytes) -> None:
    for reader in (
        read,
        read_chunk,
        lambda data: CausalContext.decode(data, actors_max=4, runs_max=4),
        lambda data: VectorClock.decode(data, actors_max=4),
    ):
        try:
            reader(data)
        except ProtocolError:
            continue


# -- the histories themselves


def take_nothing(*_: Any) -> list[Any]:
    return []


def one_name_for_ever(node_id: str, _: int) -> str:
    return f"{node_id}:0"


def two_are_enough(self: Quorums, batch: Any, *_: Any) -> bool:
    return len(batch.have) > 1


@pytest.mark.parametrize(
    ("where", "what", "bug"),
    [
        (naming, "actor_of", one_name_for_ever),
        (replication.Replication, "_take_changes", take_nothing),
        (comparing.Comparing, "on_sums", take_nothing),
        (Quorums, "_has", two_are_enough),
    ],
)
def test_a_planted_bug_is_caught(where: Any, what: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, what, bug)
    with pytest.raises(AssertionError):
        for seed in range(20):
            History(seed).play()
