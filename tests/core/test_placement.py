"""Whose answers count: the same wherever the same nodes are known, and the sets of before count on until what
they had acknowledged is with those of now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from harness import Node, Token, World
from moving import Moving
from replicas import CONFIG, changed, hold

from agentnet_core.config import EngineConfig
from agentnet_core.crdt import ORSet, Site
from agentnet_core.errors import TooFewReplicas
from agentnet_core.keepers import Keepers
from agentnet_core.parts import ACK, ANSWER, ASK, DELTA, LOST_MAX, READ, VIEWS, read
from agentnet_core.placement import SILENT_NS, Placement
from agentnet_core.session import Session
from agentnet_core.states import SHARES, Key, share_of

MS = 1_000_000
KEY = Key(ORSet(Site(None, bytes(16))).type_code, "s")


def placement(names: str, me: str = "a", **limits: int) -> Placement:
    made = Placement(me, 1, EngineConfig(**limits))
    made.observe(known(names), 0)
    assert not made.moving  # nothing was asked while it was alone
    made.used = True
    return made


def known(names: str, lost: str = "", lives: dict[str, int] | None = None) -> list[tuple[str, int, bool]]:
    return [(name, (lives or {}).get(name, 1), name in lost) for name in names]


def every(made: Placement, names: str) -> None:
    for name in names:
        made.learn(name, made.view, [])
        made.heard(name, made.view, range(SHARES))


def test_all_who_know_the_same_nodes_choose_the_same() -> None:
    one, other = placement("abcdefg"), placement("gfedcba", me="c")
    assert one.view == other.view
    for share in range(SHARES):
        assert one.of(share) == other.of(share)
        assert len(one.of(share)) == 3
        assert one.parts(share, 2) == ((2, one.of(share)),)
    assert len({one.of(share) for share in range(SHARES)}) > 20


def test_the_sets_of_before_count_on_until_the_new_ones_have_what_they_had() -> None:
    made = placement("abcde")
    before = [made.of(share) for share in range(SHARES)]
    assert made.observe(known("abcdef"), 0)
    moved = [share for share in range(SHARES) if made.of(share) != before[share]]
    assert moved
    for share in moved:
        assert made.parts(share, 2) == ((2, made.of(share)), (2, before[share]))
        assert made.parts(share, 3) == ((3, made.of(share)), (3, before[share]))
        assert made.parts(share, 1) == ((1, made.of(share)),)
    every(made, "f")
    assert made.moving
    every(made, "bcd")
    assert made.moving  # whose word came before a majority of the old had told does not count for the new
    every(made, "bcdef")
    assert not made.moving
    assert all(len(made.parts(share, 2)) == 1 for share in range(SHARES))


def test_who_has_another_view_closes_nothing() -> None:
    made = placement("abcde")
    made.observe(known("abcdef"), 0)
    for _ in range(2):
        for name in "bcdef":
            made.heard(name, made.view + 1, range(SHARES))
    assert made.moving


def test_who_started_again_does_not_count_for_what_was_before() -> None:
    made = placement("abc")
    made.observe(known("abc", lives={"b": 2}), 0)
    made.used = True
    ((need, now), (old_need, old)) = made.parts(0, 2)
    assert (need, sorted(now), old_need, sorted(old)) == (2, ["a", "b", "c"], 2, ["a", "c"])
    made.observe(known("abc", lives={"b": 2, "c": 2}), 0)
    assert (1, ("a",)) in made.parts(0, 2)


def test_a_lost_node_stays_for_a_while_and_for_good_where_half_are_lost() -> None:
    made = placement("abcde", state_move_ms=1_000)
    assert not made.observe(known("abcde", "e"), 0)
    assert made.standing
    assert not made.observe(known("abcde", "e"), 999 * MS)
    assert made.observe(known("abcde", "e"), 1_000 * MS)
    assert not any("e" in made.of(share) for share in range(SHARES))
    assert not made.observe(known("abcde", "cde"), 5_000 * MS)
    assert not made.standing
    assert not made.observe(known("abcde", "cde"), 50_000 * MS)


def test_a_lost_majority_of_an_old_set_is_waited_for_and_not_for_ever() -> None:
    made = placement("abcde", state_move_ms=1_000, state_lost_ms=5_000)
    share = next(share for share in range(SHARES) if set(made.of(share)) == set("bde"))
    made.observe(known("abcde", "de"), 0)
    assert made.observe(known("abcde", "de"), 1_000 * MS)
    assert made.standing
    for _ in range(2):
        every(made, "bc")
    assert made.parts(share, 2)[1:] == ((2, ("b", "d", "e")),)
    assert made.moving
    assert not {"d", "e"} & {*made.to_ask(100)}
    assert [(node_id, since) for node_id, _, since in made.lost()] == [("d", 0), ("e", 0)]
    assert not made.observe(known("abcde", "de"), 4_999 * MS)
    assert made.observe(known("abcde", "de"), 5_000 * MS)
    assert made.parts(share, 2)[1:] == ((1, ("b",)),)
    assert made.lost() == []
    for _ in range(2):
        every(made, "bc")
    assert not made.moving


def test_who_comes_back_is_what_it_was_and_who_started_again_is_not() -> None:
    for life, old in ((1, ((2, ("b", "d", "e")),)), (2, ((2, ("b", "e")),))):
        made = placement("abcde", state_move_ms=1_000)
        share = next(share for share in range(SHARES) if set(made.of(share)) == set("bde"))
        made.observe(known("abcde", "de"), 0)
        made.observe(known("abcde", "de"), 1_000 * MS)
        made.used = True
        assert made.observe(known("abcde", "e", lives={"d": life}), 2_000 * MS)
        assert made.parts(share, 2)[1:2] == old


def test_what_is_told_of_lost_nodes_says_nothing_of_whether_this_one_is_cut_off() -> None:
    made = Placement("f", 1, EngineConfig(state_move_ms=1_000))
    told = [("d", 1, -500 * MS), ("e", 1, -900 * MS), ("c", 1, 0)]
    assert made.observe(known("fab"), 0, told)
    assert made.standing
    assert made.view == placement("abcdef").view
    assert made.observe(known("fab"), 500 * MS, told)
    assert made.view == placement("abcf").view


def test_those_who_go_one_by_one_are_no_half_that_is_lost() -> None:
    made = placement("abcdefgh", state_move_ms=1_000)
    for number, gone in enumerate(("h", "gh", "fgh", "efgh", "defgh"), 1):
        assert not made.observe(known("abcdefgh", gone), (2_000 * number - 1_000) * MS)
        assert made.observe(known("abcdefgh", gone), 2_000 * number * MS)
        assert made.standing
    assert not made.observe(known("abcdefgh", "bcdefgh"), 90_000 * MS)
    assert not made.standing


def test_they_are_none_either_where_nobody_asks_meanwhile() -> None:
    world = World()
    nodes = world.join(*"abcdef", config=EngineConfig(state_move_ms=2_000))
    for node in nodes[3:]:
        node.kill()
        world.until(lambda node=node: node.name not in nodes[0].control.membership.alive())
        world.run(5_000)
    one = nodes[0]
    one.engine.now_ns = world.now_ns
    assert set(one.control.replication.moves.replicas(KEY)) == set("abc")
    assert one.control.replication.moves.placement.standing


def test_what_a_node_has_not_seen_it_learns_from_others() -> None:
    one, late = placement("abcde"), Placement("f", 1, EngineConfig())
    one.observe(known("abcdef"), 0)
    late.observe(known("abcdef"), 0)
    late.learn("a", one.view + 1, one.changes())
    assert late.moving == 0  # what was said of another view
    late.learn("a", one.view, one.changes())
    assert late.moving == 1
    assert not late.ready(0)
    assert not late.ready(SILENT_NS)
    for name in "bcd":
        late.learn(name, one.view, [])
    assert late.ready(SILENT_NS)
    assert not late.ready(SILENT_NS - 1)
    assert not late.ready(0)
    late.observe(known("abcdef", "e"), 0)
    assert late.ready(0)
    for share in range(SHARES):
        assert one.parts(share, 2)[-1] in late.parts(share, 2)
    every(late, "abcdef")
    every(late, "abcdef")
    assert not late.moving
    late.learn("a", one.view, one.changes())
    assert not late.moving  # it is closed here


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_old_views_and_no_more(limit: int) -> None:
    made = placement("abcde", state_views_max=limit)
    for number in range(limit):
        made.observe(known("abcde", lives={"e": 2 + number}), 0)
        made.used = True
        assert (made.moving, made.dropped) == (number + 1, 0)
    made.learn("b", made.view, [([("x", 1)], [])])
    assert (made.moving, made.dropped) == (limit, 1)
    made.observe(known("abcde", lives={"e": 99}), 0)
    assert (made.moving, made.dropped) == (limit, 2)


def test_some_are_asked_at_a_time() -> None:
    names = [f"n{number}" for number in range(40)]
    made = Placement("n0", 1, EngineConfig())
    made.observe([(name, 1, False) for name in names[:-1]], 0)
    assert len(made.to_ask(16)) == 16  # they may know of old views
    assert "n0" not in made.to_ask(100)


# -- in the simulator


@pytest.mark.parametrize("seed", range(5))
def test_what_a_quorum_acknowledged_a_quorum_reads(seed: int) -> None:
    """``python -m tests.moving`` plays more of them."""
    Moving(seed).play()


def pass_on(node: Node, verbs: tuple[int, ...]) -> None:
    """Of frames of states the node gets these alone."""
    replication = node.control.replication
    receive = replication.receive

    def filtered(session: Session, kind: int, body: bytes) -> None:
        verb, said = read(body)
        if verb == ASK:
            verb, _ = read(said[1])
        if verb in verbs:
            receive(session, kind, body)

    replication.receive = filtered  # type: ignore[method-assign]


def read_after_a_move() -> set[str]:
    """A write is acknowledged by two of three replicas, and nobody else hears of it; then so many come that
    others are chosen. What one of these reads by QUORUM."""
    world = World()
    config = EngineConfig(state_sync_ms=60_000, state_move_ms=60_000)
    nodes = {node.name: node for node in world.join(*"abcde", config=config)}
    world.run(2_000)
    place = nodes["a"].control.replication.moves.placement
    for node in nodes.values():
        node.engine.now_ns = world.now_ns
        node.control.replication.replicas(KEY)
        node.turn()
    world.until(lambda: not any(node.control.replication.moves.placement.moving for node in nodes.values()))
    one, other, _ = place.of(share_of(KEY))
    for name, node in nodes.items():
        pass_on(node, (READ, ANSWER, ACK, VIEWS) + ((DELTA,) if name == other else ()))
    writer = nodes[one]
    held, token = hold(writer, ORSet, "s"), Token()
    replication = writer.control.replication
    replication.quorums.admit()
    held.state.add("acknowledged")  # type: ignore[attr-defined]
    writer.engine.now_ns = world.now_ns
    changed(writer, held)
    replication.wait(held, 2, replication.replicas(KEY), token, chosen=True)
    writer.turn()
    world.finish(token)
    number = 0
    while sum(each in (one, other) for each in place.of(share_of(KEY))) > 1:
        node = nodes[f"x{number}"] = world.node(f"x{number}", config=config)
        world.finish(node.join("a"))
        pass_on(node, (READ, ANSWER, ACK, VIEWS))
        world.until(lambda: all(len(each.control.membership) == len(nodes) for each in nodes.values()))
        world.run(100)
        for each in nodes.values():
            each.engine.now_ns = world.now_ns
            each.control.replication.replicas(KEY)
        number += 1
    late = nodes[next(each for each in place.of(share_of(KEY)) if each not in (one, other))]
    held, token, replication = hold(late, ORSet, "s"), Token(), late.control.replication
    assert not held.state.value
    for each in place.of(share_of(KEY)):
        if each in (one, other):
            world.block(late.name, each)
    late.engine.now_ns = world.now_ns
    replication.quorums.admit()
    replication.read(held, 2, replication.replicas(KEY), token, chosen=True)
    late.turn()
    world.finish(token)
    value: set[str] = held.state.value
    return value


def test_a_read_of_the_new_set_has_what_the_old_one_acknowledged() -> None:
    assert read_after_a_move() == {"acknowledged"}


def test_a_minimum_of_a_majority_moves_with_the_network() -> None:
    world = World()
    config = EngineConfig(state_replicas=7, state_quorum_min=4)
    nodes = world.join(*"abc", config=config)
    moves = nodes[0].control.replication.moves
    wanted = {need: moves.place(KEY, need, moves.replicas(KEY)) for need in (1, 2, 3)}
    two = moves.place(KEY, 2, tuple("ab"))
    for count, expected in ((3, (1, 2, 3, 3)), (4, (1, 3, 4, 4)), (5, (1, 3, 5, 4)), (7, (1, 4, 7, 4))):
        while len(nodes) < count:
            nodes.append(world.node(f"n{len(nodes)}", config=config))
            world.finish(nodes[-1].join("a"))
        world.until(lambda: len(nodes[0].control.membership) == len(nodes))
        world.run(100)
        nodes[0].engine.now_ns = world.now_ns
        assert len(moves.replicas(KEY)) == count
        assert tuple(each()[0][0] for each in (*wanted.values(), two)) == expected


def test_a_newcomer_agrees_with_the_others_who_was_lost_before() -> None:
    world = World()
    config = EngineConfig(state_replicas=9, state_move_ms=60_000)
    nodes = world.join(*"abcd", config=config)
    nodes[3].kill(silently=True)
    world.until(lambda: all(len(node.control.membership.alive()) == 3 for node in nodes[:3]))
    late = world.node("e", config=config)
    world.finish(late.join("a"))
    assert late.control.membership.incarnation_of("d") is None
    held, token, replication = hold(late, ORSet, "s"), Token(), late.control.replication
    late.engine.now_ns = world.now_ns
    replication.quorums.admit()
    replication.read(held, 3, replication.replicas(KEY), token, chosen=True)
    late.turn()
    world.finish(token)
    assert replication.replicas(KEY) == ("a", "b", "c", "d", "e")


def test_what_a_node_that_is_no_newcomer_hears_of_lost_ones_it_does_not_believe() -> None:
    world = World()
    one, _ = world.join("a", "b", config=EngineConfig(state_move_ms=1_000))
    moves = one.control.replication.moves
    sums = [0] * SHARES
    one.engine.now_ns = world.now_ns
    moves.on_views("b", 1, sums, False, [], [(f"x{number}", 1, 0) for number in range(300)])
    assert len(moves.replicas(KEY)) == 3
    assert len(moves.placement.lost()) == LOST_MAX
    world.run(1_100)
    one.engine.now_ns = world.now_ns
    moves.on_views("b", 1, sums, False, [], [("y", 1, 0)])
    assert moves.replicas(KEY) == ("a", "b")


def only_now(self: Placement, share: int, need: int) -> Any:
    return ((need, self.of(share)),)


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placement, "parts", only_now)
    assert read_after_a_move() == set()


def read_beyond_a_cut() -> tuple[str, set[str]]:
    """A write is acknowledged by two of three replicas that are cut off from the others at that moment, for
    longer than lost nodes stay. What a node beyond the cut says that reads by QUORUM, and reads at last."""
    world = World()
    nodes = world.join(*"abcde", config=replace(CONFIG, state_move_ms=2_500, state_lost_ms=60_000))
    world.run(2_000)
    for node in nodes:
        node.engine.now_ns = world.now_ns
        node.control.replication.replicas(KEY)
        node.turn()
    by_name = {node.name: node for node in nodes}
    one, other, third = nodes[0].control.replication.moves.placement.of(share_of(KEY))
    writer, reader = by_name[one].control.replication, by_name[third].control.replication

    def wait(node: Node, *, writes: bool) -> Token:
        token, replication = Token(), node.control.replication
        node.engine.now_ns = world.now_ns
        replicas = replication.replicas(KEY)
        replication.check_reach(KEY, 2, replicas, chosen=True)
        replication.quorums.admit()
        held = hold(node, ORSet, "s")
        if writes:
            held.state.add("acknowledged")  # type: ignore[attr-defined]
            changed(node, held)
            replication.wait(held, 2, replicas, token, chosen=True)
        else:
            replication.read(held, 2, replicas, token, chosen=True)
        node.turn()
        return token

    world.finish(wait(by_name[third], writes=False))  # so that its view is one that counts
    world.partition([one, other], [name for name in by_name if name not in (one, other)])
    world.finish(wait(by_name[one], writes=True))
    assert writer.quorums.failed == 0
    world.run(10_000)
    said = ""
    try:
        world.finish(wait(by_name[third], writes=False))
    except TooFewReplicas as error:
        assert error.definite
        said = str(error)
        world.heal()
        world.until(
            lambda: not reader.moves.placement.moving and len(by_name[third].control.membership.alive()) == 5
        )
        world.run(1_000)
        world.finish(wait(by_name[third], writes=False))
    value: set[str] = hold(by_name[third], ORSet, "s").state.value
    return said, value


def test_what_was_acknowledged_beyond_a_cut_is_waited_for() -> None:
    said, value = read_beyond_a_cut()
    assert "2 replicas of before are wanted, and 1 of 3 live" in said
    assert value == {"acknowledged"}


def but_lost_ones(self: Placement, view: Any, share: int) -> tuple[str, ...]:
    return tuple(each for each in view.of(share) if self._current.lives.get(each) == view.lives[each])


def test_a_planted_bug_is_caught_beyond_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placement, "_there", but_lost_ones)
    assert read_beyond_a_cut() == ("", set())


def test_where_half_are_lost_nothing_is_acknowledged() -> None:
    world = World()
    nodes = world.join(*"abcd", config=replace(CONFIG, state_move_ms=1_000))
    world.partition(["a", "b"], ["c", "d"])
    world.run(5_000)
    for node in nodes:
        node.engine.now_ns = world.now_ns
        replication = node.control.replication
        assert len(replication.replicas(KEY)) == 3
        with pytest.raises(TooFewReplicas, match="half of all nodes are lost") as refusal:
            replication.check_reach(KEY, 2, replication.replicas(KEY), chosen=True)
        assert refusal.value.definite


def test_a_node_that_asks_for_nothing_draws_no_replicas_when_others_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    of = Keepers.of

    def counted(keepers: Keepers, share: int) -> tuple[str, ...]:
        drawn.append(share)
        return of(keepers, share)

    monkeypatch.setattr(Keepers, "of", counted)
    made = Placement("n0", 1, EngineConfig())
    for count in range(2, 50):
        assert made.observe([(f"n{number}", 1, False) for number in range(count)], count)
    assert not drawn, "of a thousand nodes that takes 40 ms, each time that one comes"
    assert len(made.of(0)) == 3
    assert drawn == [0]
