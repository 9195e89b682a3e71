"""Which nodes there are and whom to dial: single decisions, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memberships import (
    CONFIG,
    MS,
    Fixed,
    kinds,
    membership,
    news,
    next_dial_ns,
    next_look,
    status,
    told,
    told_version,
    up,
)

from agentnet_core.body import pack
from agentnet_core.detector import NEVER
from agentnet_core.dials import Dial
from agentnet_core.errors import HandshakeRefused, ProtocolError
from agentnet_core.member_record import NodeRecord, Standing
from agentnet_core.records import Event, NodeStatus
from agentnet_core.roster import decode_members, encode_members

# -- whom to dial, and when


def test_the_greater_node_dials_at_once_and_the_lesser_a_little_later() -> None:
    one = membership("m")
    one.learn(told("a", "z"), 0)
    assert one.tick(0) == [Dial("tcp://a:1", "a")]
    assert one.next_deadline_ns() == 500 * MS
    assert one.tick(500 * MS - 1) == []
    assert one.tick(500 * MS) == [Dial("tcp://z:1", "z")]
    assert one.tick(600 * MS) == [], "one dial at a time for each"


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (0.5, 0.75), (1 - 1e-9, 1.0)])
def test_backoff_doubles_from_min_to_max_and_half_of_it_is_jitter(jitter: float, share: float) -> None:
    one = membership("m", Fixed(jitter))
    one.learn(told("a"), 0)
    now, waits = 0, []
    for _ in range(9):
        (dial,) = one.tick(now)
        one.dial_failed(dial, "refused", now)
        due = next_dial_ns(one)
        assert one.tick(due - 1) == []
        waits.append((due - now) / MS)
        now = due
    assert waits == pytest.approx(
        [share * wait for wait in (50, 100, 200, 400, 800, 1600, 3200, 5000, 5000)], rel=1e-4
    )


def test_the_addresses_of_a_node_take_turns() -> None:
    one = membership("m")
    one.learn(pack([["a", 1, 0, ["tcp://x:1", "tcp://x:2"]]]), 0)
    now, dialled = 0, []
    for _ in range(4):
        (dial,) = one.tick(now)
        dialled.append(dial.address)
        one.dial_failed(dial, "refused", now)
        now = next_dial_ns(one)
    assert dialled == ["tcp://x:1", "tcp://x:2"] * 2


def test_an_address_is_dialled_once_at_a_time() -> None:
    one = membership("m")
    one.bootstrap(["tcp://x:1"], 0)
    (dial,) = one.tick(0)
    one.learn(pack([["a", 1, 0, ["tcp://x:1"]], ["b", 1, 0, ["tcp://x:1"]]]), 0)
    assert one.tick(0) == []
    assert one.next_deadline_ns() == 50 * MS
    one.dial_failed(dial, "refused", 0)
    assert one.tick(50 * MS) == [Dial("tcp://x:1", "a")]


def test_a_node_without_addresses_is_not_dialled() -> None:
    one = membership("m")
    one.learn(pack([["a", 1, 0, []]]), 0)
    assert one.tick(0) == []
    assert one.next_deadline_ns() == CONFIG.node_silence_ms_max * MS
    assert one.tick(one.next_deadline_ns()) == []


def test_a_link_that_ends_soon_counts_as_a_failed_dial() -> None:
    one = membership("m")
    now = 0
    waits = []
    for _ in range(4):
        up(one, "a", now)
        one.link_down("a", now + 1)
        waits.append(next_dial_ns(one) - now - 1)
        now = next_dial_ns(one)
    assert waits == [25 * MS, 50 * MS, 100 * MS, 200 * MS]
    up(one, "a", now)
    one.link_down("a", now + CONFIG.redial_ms_max * MS)
    assert next_dial_ns(one) == now + CONFIG.redial_ms_max * MS


def test_a_failed_dial_of_a_linked_node_is_no_failure() -> None:
    one = membership("m")
    one.learn(told("a"), 0)
    (dial,) = one.tick(0)
    up(one, "a", 0)  # its own dial was faster
    one.dial_failed(dial, "duplicate link", 0, node_id="a")
    one.link_down("a", 0)
    assert next_dial_ns(one) == 25 * MS
    assert one.dial_reasons() == {}
    assert one.tick(25 * MS) == [dial]


def test_a_dial_that_finds_another_node_is_a_failure_of_the_first() -> None:
    one = membership("m")
    one.learn(told("a"), 0)
    (dial,) = one.tick(0)
    up(one, "b", 0, dial=dial)
    assert one.linked() == ["b"]
    assert one.dial_reasons() == {"a": "node 'b' is there"}
    assert one.tick(25 * MS) == [dial]


# -- bootstrap


def test_a_bootstrap_address_is_dialled_until_its_node_is_known() -> None:
    one = membership("m")
    one.bootstrap(["tcp://x:1", "tcp://y:1", "tcp://x:1"], 0)
    x, y = one.tick(0)
    assert (x, y) == (Dial("tcp://x:1"), Dial("tcp://y:1"))
    assert not one.joined(0)
    one.dial_failed(y, "refused", 0)
    assert one.dial_reasons() == {"tcp://y:1": "refused"}
    up(one, "z", 0, dial=x)
    assert one.joined(0)
    assert one.tick(25 * MS) == [y]
    one.dial_failed(y, "duplicate link", 30 * MS, node_id="z")
    assert one.tick(60 * MS) == []
    one.link_down("z", 9000 * MS)
    assert one.tick(9500 * MS) == [Dial("tcp://z:1", "z")], "both names of it are known to be z"
    one.dial_failed(Dial("tcp://z:1", "z"), "refused", 9500 * MS)
    assert one.tick(9600 * MS) == [Dial("tcp://x:1", "z")], "where it was found may be all that works"


def test_a_bootstrap_address_that_a_known_node_advertises_is_its() -> None:
    one = membership("m")
    one.learn(told("a"), 0)
    one.bootstrap(["tcp://a:1"], 0)
    (dial,) = one.tick(0)
    assert dial.node_id == "a"
    up(one, "a", 0, dial=dial)
    assert one.tick(1) == []
    assert next_look(one) == CONFIG.node_silence_ms_max * MS


def test_a_nodes_own_address_is_dropped() -> None:
    one = membership("m")
    one.bootstrap(["tcp://m:1", "tcp://x:1"], 0)
    mine, _ = one.tick(0)
    one.is_self("tcp://m:1")
    one.dial_failed(mine, "this node itself", 0)
    assert one.bootstrap_left() == ["tcp://x:1"]
    assert one.dial_reasons() == {}
    one.is_self("tcp://x:1")
    assert one.joined(0), "nobody else was named"


def test_a_join_waits_for_all_that_are_known() -> None:
    one = membership("m")
    assert one.joined(0), "an empty list founds a network"
    one.bootstrap(["tcp://z:1"], 0)
    (seed,) = one.tick(0)
    up(one, "z", 0, dial=seed)
    one.learn(told("a", "b", "m", "z"), 0)
    assert not one.joined(0)
    a, b = one.tick(0)
    up(one, "a", 0, dial=a)
    assert not one.joined(0)
    one.dial_failed(b, "refused", 0)
    assert one.joined(0)
    one.learn(told("x"), 0)
    assert not one.joined(0)
    assert not one.joined(CONFIG.handshake_ms_max * MS - 1)
    assert one.joined(CONFIG.handshake_ms_max * MS)


# -- what becomes of a node


def test_a_node_joins_is_lost_and_comes_back() -> None:
    one = membership("m")
    up(one, "a")
    assert status(one) == {"a": NodeStatus.ACTIVE, "m": NodeStatus.ACTIVE}
    one.link_down("a", 0)
    up(one, "a", 1)
    assert kinds(one) == [("joined", "a")], "a short break is no event"
    one.link_down("a", 10_000 * MS)
    assert status(one)["a"] is NodeStatus.DISCONNECTED
    (dial,) = one.tick(10_000 * MS)
    one.dial_failed(dial, "no route", 10_000 * MS)
    one.tick(12_000 * MS)  # in doubt, and nobody to ask: accused
    one.tick(13_500 * MS - 1)
    assert kinds(one) == []
    one.tick(13_500 * MS)
    (lost,) = one.drain_events()
    assert (lost.kind, lost.node_id) == ("lost", "a")
    assert lost.detail == "silent for 3500 ms, also to m: no route"
    one.dial_failed(dial, "no route", 16_000 * MS)
    assert one.next_deadline_ns() == 18_500 * MS, "half of redial_ms_max, and no jitter here"
    up(one, "a", 17_000 * MS)
    assert kinds(one) == [("joined", "a")]


def test_a_node_that_was_never_linked_is_lost_without_a_word() -> None:
    one = membership("m")
    one.learn(told("z"), 0)
    for now in range(0, 6000, 500):
        one.tick(now * MS)
    assert kinds(one) == []
    assert one.living("z") is None
    assert one.joined(6000 * MS)


def test_a_node_that_left_does_not_come_back_by_hearsay() -> None:
    one = membership("m")
    up(one, "a", incarnation=3)
    one.left("a", 0)
    one.link_down("a", 0)
    one.learn(told("a", incarnation=3), 0)
    assert kinds(one) == [("joined", "a"), ("left", "a")]
    assert list(status(one)) == ["m"]
    assert one.tick(0) == []
    reason = one.refusal("a", 3)
    assert reason is not None
    assert "node 'a' has left the network as incarnation 3" in reason
    with pytest.raises(HandshakeRefused, match="has left"):
        up(one, "a", incarnation=3)
    one.left("nobody", 0)
    up(one, "a", incarnation=4)
    assert one.refusal("a", 4) is None
    assert kinds(one) == [("joined", "a")]


def test_a_left_bootstrap_node_is_not_dialled() -> None:
    one = membership("m")
    one.bootstrap(["tcp://x:1"], 0)
    (dial,) = one.tick(0)
    up(one, "a", 0, dial=dial)
    one.left("a", 0)
    assert one.tick(10_000 * MS) == []
    assert next_look(one) == NEVER


def test_the_left_are_remembered_up_to_nodes_max() -> None:
    one = membership("m", nodes_max=3)
    for node_id in "abcd":
        up(one, node_id)
        one.left(node_id, 0)
    assert [one.refusal(node_id, 1) is None for node_id in "abcd"] == [True, False, False, False]


def test_a_lower_incarnation_is_ignored_and_a_higher_one_takes_its_place() -> None:
    one = membership("m")
    one.learn(told("a", incarnation=5), 0)
    one.learn(told("a", incarnation=4), 0)
    assert one.incarnation_of("a") == 5
    reason = one.refusal("a", 4)
    assert reason is not None
    assert "incarnation 4 of node 'a' is dead, it runs as 5 now" in reason
    one.learn(told("a", incarnation=6), 0)
    assert one.incarnation_of("a") == 6
    up(one, "a", incarnation=6)
    one.learn(told("a", incarnation=9), 0)
    assert one.incarnation_of("a") == 6, "hearsay does not shake a link"
    up(one, "a", incarnation=7)
    events = one.drain_events()
    assert [e.kind for e in events] == ["joined", "lost", "joined"]
    assert events[1].detail == "replaced by incarnation 7"
    one.link_down("a", 0)
    one.learn(told("a", incarnation=8), 0)
    assert kinds(one) == [("lost", "a")]
    assert one.incarnation_of("nobody") is None


def test_no_more_than_nodes_max_are_known() -> None:
    one = membership("m", nodes_max=3)
    up(one, "a")
    one.learn(told("b", "c", "d", "a"), 0)
    assert list(status(one)) == ["a", "b", "m"]
    _, refused = one.drain_events()
    assert (refused.kind, refused.node_id, refused.count) == ("link_refused", "c", 2)
    assert "nodes_max=3: no room for 2 nodes" in refused.detail
    reason = one.refusal("c", 1)
    assert reason is not None
    assert "one too many for nodes_max=3 of 'm'" in reason
    one.learn(encode_members([NodeRecord("b", 1, (), accusers=("a", "x"))])[0], 0, "a")
    one.tick(20_000 * MS)
    assert one.living("b") is None
    up(one, "c", 20_000 * MS)  # the lost one makes room
    assert list(status(one)) == ["a", "c", "m"]
    assert one.refusal("b", 1) is not None


def test_the_oldest_lost_node_is_forgotten_first() -> None:
    one = membership("m", nodes_max=4)
    for at, node_id in enumerate("abc"):
        up(one, node_id)
        one.link_down(node_id, at)
    one.tick(50_000 * MS)
    one.tick(60_000 * MS)
    one.learn(told("d"), 60_000 * MS)
    assert list(status(one)) == ["b", "c", "d", "m"]
    one.dial_failed(Dial("tcp://a:1", "a"), "too late", 60_000 * MS)


def test_events_are_bounded() -> None:
    one = membership("m", nodes_max=2)
    for incarnation in range(10):
        up(one, "a", incarnation=incarnation)
    events = one.drain_events()
    assert len(events) == 9
    assert (events[-1].kind, events[-1].count) == (Event.EVENTS_MISSED, 11)
    assert one.drain_events() == []


# -- MEMBERS


def test_a_node_tells_of_itself_and_of_all_that_it_knows() -> None:
    one = membership("m")
    up(one, "a")
    one.learn(told("z"), 0, "a")
    up(one, "b", incarnation=3)
    one.link_down("a", 0)
    assert one.records() == [
        NodeRecord("m", 5, ("tcp://m:1",)),
        NodeRecord("a", 1, ("tcp://a:1",)),
        NodeRecord("z", 1, ("tcp://z:1",)),
        NodeRecord("b", 3, ("tcp://b:1",)),
    ]
    assert [decode_members(body) for body in one.frames()] == [one.records()]


def test_many_members_are_cut_into_frames() -> None:
    records = [NodeRecord(f"node-{i}", i, ("tcp://127.0.0.1:7400",)) for i in range(200)]
    bodies = encode_members(records, 300)
    assert max(map(len, bodies)) <= 300
    assert [record for body in bodies for record in decode_members(body)] == records
    assert encode_members([]) == [b"\x90"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "MEMBERS: expected a list, got 7"),
        ([7], "MEMBERS record: expected a list, got 7"),
        ([["a", 1]], "MEMBERS record: expected a list of 4, got '2 elements'"),
        ([["no name", 1, 0, []]], "MEMBERS node id: expected 1 to 64 of"),
        ([["a", -1, 0, []]], "MEMBERS incarnation: expected an integer from 0"),
        ([["a", 1, 2**53 + 1, []]], "MEMBERS version: expected an integer from 0"),
        ([["a", 1, 0, ["x"]]], "MEMBERS addresses: expected addresses such as"),
        ([["b", 1, 0, []], ["a", 1, 0, 7]], "MEMBERS addresses: expected a list, got 7"),
        ([["a", 1, 0, [], 3, [], []]], "MEMBERS standing: expected an integer from 0 to 2"),
        ([["a", 1, 0, [], 0, ["b"] * 9, []]], "MEMBERS accusers: expected a list of 0 to 8"),
        ([["a", 1, 0, [], 0, [], [7]]], "MEMBERS witnesses: expected 1 to 64 of"),
        ([["m", 5, 1, []]], "node 'm' is told of version 1 of itself: expected at most 0"),
    ],
)
def test_wrong_members_are_refused_and_change_nothing(value: Any, said: str) -> None:
    one = membership("m")
    with pytest.raises(ProtocolError, match=said):
        one.learn(pack(value), 0)
    assert list(status(one)) == ["m"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60))
def test_garbage_is_a_protocol_error(body: bytes) -> None:
    try:
        decode_members(body)
    except ProtocolError:
        return
    assert body == b"\x90" or b"\x94" in body or b"\x97" in body


# -- news


def test_what_is_new_is_told_once_and_not_to_who_told_it() -> None:
    one = membership("m")
    up(one, "a")
    assert news(one) == {"a": [NodeRecord("a", 1, ("tcp://a:1",))]}
    one.learn(told("z", "a"), 0, "a")
    one.learn(told("z"), 0, "b")
    assert news(one) == {"a": [NodeRecord("z", 1, ("tcp://z:1",))]}
    assert news(one) == {}


def test_who_may_refuse_the_link_yet_is_not_introduced() -> None:
    one = membership("m")
    one.link_up("a", 1, ["tcp://a:1"], 0, confirmed=False)
    assert news(one) == {}
    assert kinds(one) == []
    one.confirm("a")
    one.confirm("a")
    assert news(one) == {"a": [NodeRecord("a", 1, ("tcp://a:1",))]}
    assert kinds(one) == [("joined", "a")]


def test_the_dead_of_others_past_are_not_admitted() -> None:
    one = membership("m")
    lost = NodeRecord("z", 1, (), standing=Standing.LOST)
    one.learn(encode_members([lost])[0], 0, "a")
    assert list(status(one)) == ["m"]
    assert news(one) == {}


def test_a_node_clears_itself_of_what_is_said_of_it() -> None:
    one = membership("m")
    for number, said in enumerate(
        [
            NodeRecord("m", 5, (), accusers=("a",)),
            NodeRecord("m", 5, (), 1, Standing.LOST),
            NodeRecord("m", 5, (), 2, Standing.LOST, ("a", "b"), ("a", "b")),
        ],
        1,
    ):
        one.learn(encode_members([said])[0], 0, "a")
        assert news(one) == {None: [NodeRecord("m", 5, ("tcp://m:1",), number)]}
    one.learn(encode_members([NodeRecord("m", 5, (), 1, Standing.LOST)])[0], 0, "a")
    one.learn(encode_members([NodeRecord("m", 4, (), 9, Standing.LOST)])[0], 0, "a")
    assert news(one) == {}, "old stories"


def test_who_is_heard_is_not_lost_whatever_others_say() -> None:
    one = membership("m")
    up(one, "a")
    up(one, "b")
    one.learn(encode_members([NodeRecord("a", 1, (), 0, Standing.LOST, ("x", "y"), ("x", "y"))])[0], 0, "b")
    one.tick(1)
    assert one.living("a") is not None
    assert status(one)["a"] is NodeStatus.ACTIVE
    assert [record.standing for record in one.records() if record.node_id == "a"] == [Standing.LOST], (
        "it will be told, and clear itself"
    )
    one.learn(told_version("a", 1), 2, "a")
    assert [record.standing for record in one.records() if record.node_id == "a"] == [Standing.ALIVE]


def test_a_lost_node_that_clears_itself_is_dialled_at_once() -> None:
    one = membership("m")
    up(one, "a")
    up(one, "b")
    one.link_down("a", 0)
    one.learn(encode_members([NodeRecord("a", 1, (), 0, Standing.LOST, ("b", "c"))])[0], 0, "b")
    (dial,) = one.tick(3000 * MS)
    assert one.living("a") is None
    one.dial_failed(dial, "no", 19_999 * MS)
    assert one.tick(20_000 * MS) == []
    one.learn(told_version("a", 1), 20_000 * MS, "b")
    assert one.tick(20_000 * MS) == [Dial("tcp://a:1", "a")]
    assert one.living("a") is not None


def test_who_left_is_told_of_and_known_to_have_left() -> None:
    one, other = membership("m"), membership("o")
    for each in (one, other):
        up(each, "a")
    one.left("a", 0)
    one.link_down("a", 0)
    ((_, bodies),) = one.drain_news(["o"], 0)
    other.link_down("a", 0)
    other.learn(bodies[0], 0, "m")
    assert kinds(other) == [("joined", "a"), ("left", "a")]
    assert other.refusal("a", 1) is not None


def test_hearsay_of_leaving_does_not_shake_a_link() -> None:
    one = membership("m")
    up(one, "a")
    one.learn(encode_members([NodeRecord("a", 1, (), standing=Standing.LEFT)])[0], 0, "b")
    assert kinds(one) == [("joined", "a")]
    assert one.linked() == ["a"]


def test_once_in_a_while_notes_are_compared() -> None:
    one = membership("m", sync_interval_ms=1000)
    up(one, "a")
    one.tick(0)
    assert one.drain_syncs() == []
    one.tick(one.next_deadline_ns())
    assert one.drain_syncs() == ["a"]


def test_equal_digests_mean_equal_views() -> None:
    one, other = membership("m"), membership("n")
    up(one, "n", incarnation=5)
    up(other, "m", incarnation=5)
    assert one.digest() == other.digest()
    one.learn(told("z"), 0, "n")
    assert one.digest() != other.digest()
    assert [decode_members(body) for body in one.frames(unlike=other.digest())] == [
        [NodeRecord("z", 1, ("tcp://z:1",))]
    ], "and no more than that"
    other.learn(told("z"), 0, "m")
    assert one.digest() == other.digest()
    assert one.frames(unlike=other.digest()) == [encode_members([])[0]]
    one.left("z", 0)
    other.left("z", 0)
    assert one.digest() == other.digest()


# -- in a large network


@pytest.mark.parametrize(("nodes", "pace"), [(200, 1), (500, 2), (1_000, 4)])
def test_in_a_large_network_who_is_silent_is_doubted_later(nodes: int, pace: int) -> None:
    one = membership("m")
    names = [f"n{number}" for number in range(nodes - 2)]
    for at in range(0, len(names), 250):
        one.learn(told(*names[at : at + 250]), 0)
    up(one, "a")
    one.tick(0)
    doubted_ns = CONFIG.node_silence_ms_max * MS * pace
    assert one.pace == pace
    assert one.vouch("a", 0, doubted_ns - 1).silent_ms is not None
    assert one.vouch("a", 0, doubted_ns).silent_ms is None


@pytest.mark.parametrize(("nodes", "pace"), [(200, 1), (1_000, 4)])
def test_of_many_lost_nodes_eight_are_dialled_each_redial_ms_max_in_a_large_network_fewer(
    nodes: int, pace: int
) -> None:
    one = membership("m", nodes_max=2_000)
    alive, lost = [f"n{number}" for number in range(nodes)], [f"z{number}" for number in range(40)]
    for at in range(0, nodes, 200):
        one.learn(told(*alive[at : at + 200]), 0)
    one.learn(told(*lost), 0)
    dead = [NodeRecord(i, 1, (f"tcp://{i}:1",), 0, Standing.LOST, ("x", "y"), ("x", "y")) for i in lost]
    one.learn(encode_members(dead)[0], 0)
    one.tick(0)
    assert len(one) == nodes + 1
    dialled = []
    for second in range(1, 41):
        for dial in one.tick(second * 1_000 * MS):
            if dial.node_id in lost:
                dialled.append(dial.node_id)
                one.dial_failed(dial, "nobody there", second * 1_000 * MS)
    rate = 8 * 40_000 / CONFIG.redial_ms_max / pace
    assert 0.6 * rate <= len(dialled) <= rate + 1
    assert len(set(dialled)) >= 0.9 * min(len(dialled), 40), "each in turn"


def test_a_lost_node_without_an_address_keeps_no_other_from_being_dialled() -> None:
    one = membership("m")
    one.learn(told("a"), 0)
    one.learn(pack([["b", 1, 0, []]]), 0)
    dead = [NodeRecord(i, 1, (), 0, Standing.LOST, ("x", "y"), ("x", "y")) for i in "ab"]
    one.learn(encode_members(dead)[0], 0)
    dialled = []
    for second in range(20):
        for dial in one.tick(second * 1_000 * MS):
            dialled.append((dial.node_id, one.living("a") is None))
            one.dial_failed(dial, "nobody there", second * 1_000 * MS)
    assert ("a", True) in dialled
    assert not one.living("b")
