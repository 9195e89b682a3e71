"""States forget actors that are gone: nothing is lost, back or counted twice, nobody is believed too much."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from harness import Node, World
from prunings import PRUNE_CONFIG, Story
from replicas import changed, equal, hold
from strangers import Stranger

from agentnet_core.body import pack
from agentnet_core.config import BODY_BYTES, EngineConfig
from agentnet_core.crdt import GCounter, MVRegister, ORSet
from agentnet_core.crdt.renaming import STAR, Renaming
from agentnet_core.errors import ConfigError, ProtocolError
from agentnet_core.handshake import FEATURE_PRUNING, FEATURE_STATES
from agentnet_core.membership import Membership
from agentnet_core.parts import STATE
from agentnet_core.pruning import DECIDE, DECIDED, DEFECTS, PROMISE, PROPOSE, ROUND, ROUNDS, STAND
from agentnet_core.rounds import ITEMS_MAX, ROUND_BYTES_MAX, Chain, Item, Round
from agentnet_core.states import Key

COUNTER = 4


def count(node: Node, amount: int = 1, name: str = "count") -> None:
    held = hold(node, GCounter, name)
    held.state.increment(amount)  # type: ignore[attr-defined]
    changed(node, held)
    node.turn()


def value(node: Node, name: str = "count") -> int:
    return hold(node, GCounter, name).state.value  # type: ignore[no-any-return]


def actors(node: Node, name: str = "count") -> set[str]:
    return set(hold(node, GCounter, name).state.context)


def number(node: Node) -> int:
    return node.control.replication.pruning.chain.number


# -- all of it, from seeds


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_all_end_equal_with_living_actors_alone(seed: int) -> None:
    Story(seed).play()


@pytest.mark.parametrize("seed", [*range(1000, 1015), 3023])
def test_nodes_away_for_longer_than_rounds_are_kept_lose_nothing_untold(seed: int) -> None:
    Story(seed, config=replace(PRUNE_CONFIG, state_rounds_max=1)).play()


# -- step by step


def network(config: EngineConfig = PRUNE_CONFIG, names: str = "abc") -> tuple[World, list[Node]]:
    world = World(3)
    nodes = world.join(*names, config=config)
    for node in nodes:
        count(node, 10)
    world.until(lambda: equal(nodes) and value(nodes[0]) == 10 * len(nodes))
    return world, nodes


def test_who_left_is_forgotten_and_what_it_did_stays() -> None:
    world, (a, b, c) = network()
    c.leave()
    world.until(lambda: number(a) > 0 and number(b) > 0)
    assert value(a) == value(b) == 30
    assert actors(a) == actors(b) == {"a:1", "b:1", STAR}
    c.restart("a")
    count(c, 5)
    world.until(lambda: value(a) == value(b) == value(c) == 35)
    assert actors(c) == {"a:1", "b:1", "c:2", STAR}


def test_who_was_cut_off_takes_another_name_and_its_counts_are_there_once() -> None:
    world, (a, b, c) = network()
    world.partition("ab", "c")
    count(c, 7)
    world.until(lambda: number(a) > 0)
    count(a, 100)
    count(c, 9)
    assert value(c) == 46
    world.heal()
    world.until(lambda: equal([a, b, c]) and value(c) == 146)
    count(c, 1)
    world.until(lambda: equal([a, b, c]) and value(a) == 147)
    world.until(lambda: actors(a) == {"a:1", "b:1", c.control.replication.actor, STAR}, ms=30_000)
    assert c.control.replication.actor != "c:1"
    assert value(a) == 147
    assert c.told("state_conflict")


def test_half_of_a_network_prunes_nothing() -> None:
    world, (a, b, c, d) = network(names="abcd")
    world.partition("ab", "cd")
    world.run(10_000)
    assert not any(map(number, (a, b, c, d)))


def test_two_who_would_propose_at_once_decide_one_round() -> None:
    for seed in range(10):
        world = World(seed)
        nodes = world.join(*"abcd", config=replace(PRUNE_CONFIG, state_pruning=False))
        for node in nodes:
            count(node, 10)
        world.until(lambda: equal(nodes))  # noqa: B023
        nodes[3].leave()
        world.run(500)
        for node in nodes[:2]:
            pruning = node.control.replication.pruning
            known = node.control.membership.lives()
            pruning._after_ns = 0
            pruning._find(known, node.clock.now_ns)
            items = pruning._find(known, node.clock.now_ns)
            assert items
            node.engine.now_ns = node.clock.now_ns
            pruning.deciding.propose(items, ["a", "b", "c"], 3, node.clock.now_ns)
            node.turn()
        world.run(5_000)
        ids = {node.control.replication.pruning.chain.id for node in nodes[:3]}
        assert len(ids) == 1
        assert {value(node) for node in nodes[:3]} == {40}


def test_nothing_is_decided_where_one_that_lives_does_not_agree() -> None:
    world, (a, b, c, d) = network(names="abcd")
    d.leave()
    b.control.replication.pruning.deciding._judge = lambda _items: False
    world.run(10_000)
    assert not any(map(number, (a, b, c)))


def test_where_not_all_had_to_agree_nothing_would_be_lost() -> None:
    """A name is renamed, whatever was done in it: what one knows of it beyond that has a name of its own."""
    world, (a, b, c) = network()
    for node in (a, b):
        node.control.replication.pruning.deciding._judge = lambda _items: True
    world.block("a", "c")
    world.block("c", "a")
    b.control.replication.comparing.show = lambda *_: None  # type: ignore[method-assign]
    count(c, 7)
    c.kill(silently=True)
    world.heal()
    world.until(lambda: number(a) > 0)
    world.until(lambda: equal([a, b]) and actors(a) == {"a:1", "b:1", STAR}, ms=60_000)
    assert value(a) in (30, 37)


def test_an_older_release_holds_it_up_and_hears_nothing_of_it() -> None:
    world, (a, _, c) = network()
    stranger = Stranger(world, a)
    stranger.introduce()
    world.run(100)
    assert any(stranger.bodies(STATE))
    c.leave()
    world.run(700)
    assert not any(stranger.bodies(ROUND))
    assert number(a) == 0


def test_a_clock_that_was_read_before_means_the_same_after() -> None:
    world, (a, b, c) = network()
    held = hold(c, MVRegister, "r")
    held.state.set("old")  # type: ignore[attr-defined]
    changed(c, held)
    c.turn()
    world.until(lambda: hold(a, MVRegister, "r").state.value == ["old"])
    here, pruning = hold(a, MVRegister, "r"), a.control.replication.pruning
    clock = here.state.context.clock()
    c.leave()
    world.until(lambda: not here.state.context.runs("c:1"))
    assert pruning.has(here, "c:1", 1)
    assert not pruning.has(here, "c:1", 2)
    here.state.set("new", pruning.clock(here.key, clock))  # type: ignore[attr-defined]
    changed(a, here)
    a.turn()
    assert here.state.value == ["new"]
    world.until(lambda: hold(b, MVRegister, "r").state.value == ["new"])


# -- planted bugs


def old_words_come_late(defect: int) -> None:
    world, (a, b, c) = network()
    old = hold(c, GCounter, "count").state.encode()
    a.control.replication.pruning.defect = b.control.replication.pruning.defect = defect
    c.leave()
    world.until(lambda: number(a) > 0 and number(b) > 0)
    a.control.replication.take("b", Key(COUNTER, "count"), old, None)
    assert value(a) == 30
    assert actors(a) == {"a:1", "b:1", STAR}


def halves_prune() -> None:
    world, nodes = network(names="abcd")
    world.partition("ab", "cd")
    for node in nodes:
        node.control.replication.pruning.deciding._enough = lambda *_: True  # type: ignore[method-assign]
        node.control.replication.pruning._membership = Living(node.control.membership)  # type: ignore[assignment]
    world.run(20_000)
    world.heal()
    count(nodes[0], 1)
    count(nodes[3], 1)
    world.until(lambda: equal(nodes) and value(nodes[0]) == 42)


class Living:
    """A membership that does not know the lost."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership

    def __getattr__(self, name: str) -> Any:
        return getattr(self.membership, name)

    def lives(self) -> list[tuple[str, int, bool]]:
        return [each for each in self.membership.lives() if not each[2]]


def long_absence(defect: int) -> None:
    config = replace(PRUNE_CONFIG, state_rounds_max=1)
    world, nodes = network(config, "abcd")
    a, _, c, d = nodes
    d.control.replication.pruning.defect = defect
    world.run(5_000)  # all learn that all hold the same
    world.partition("abc", "d")
    world.until(lambda: not d.engine.sessions)
    count(d, 7)
    hold(d, ORSet, "set").state.add("mine")  # type: ignore[attr-defined]
    changed(d, hold(d, ORSet, "set"))
    for _ in range(3):
        c.kill(silently=True)
        world.run(3_000)
        c.restart("a")
        count(c, 1)
        world.run(3_000)
    assert number(a) > 2
    world.heal()
    world.until(lambda: equal(nodes) and value(a) == 50, ms=30_000)
    assert d.control.replication.pruning.absence.remade == 2
    assert d.control.replication.pruning.absence.unknown == 0
    assert hold(a, ORSet, "set").state.value == {"mine"}
    world.until(lambda: actors(a) <= {STAR, *(each.control.replication.actor for each in nodes)}, ms=60_000)
    assert value(a) == 50


def test_a_node_away_for_too_long_bootstraps_and_keeps_what_it_alone_had() -> None:
    long_absence(0)


def test_words_that_come_late_are_understood() -> None:
    old_words_come_late(0)


@pytest.mark.parametrize(
    "scenario",
    [
        partial(old_words_come_late, DEFECTS["folded twice"]),
        partial(old_words_come_late, DEFECTS["merged in old names"]),
        partial(long_absence, DEFECTS["merged after absence"]),
        halves_prune,
    ],
)
def test_a_planted_bug_is_caught(scenario: Any) -> None:
    with pytest.raises(AssertionError):
        scenario()


def test_networks_that_pruned_each_for_itself_exchange_nothing_and_tell() -> None:
    world, (a, _, c) = network()
    c.leave()
    world.until(lambda: number(a) > 0)
    stranger = newcomer(world, a)
    stranger.say(ROUND, pack([STAND, number(a), 77, 1, True, "stranger:1"]))
    world.run(10)
    told = a.told("state_refused")
    assert any("315" in str(event.error.code) for event in told if event.error is not None)


# -- bad input


def newcomer(world: World, node: Node) -> Stranger:
    stranger = Stranger(world, node)
    stranger.introduce(features_optional=FEATURE_STATES | FEATURE_PRUNING)
    return stranger


ITEM = Item(Key(COUNTER, "c"), Renaming("c:1", 3, 0, (5,), (5,)))


def forms(item: Item) -> list[Any]:
    return [item.key, item.renaming]


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        pack([]),
        pack([9]),
        pack([STAND, 0, 0]),
        pack([STAND, 0, 0, 5, True, "stranger:1"]),
        pack([STAND, 0, 0, 1, True, "other:1"]),
        pack([ROUNDS, [b"x"]]),
        pack([ROUNDS, [bytes(ROUND_BYTES_MAX + 1)]]),
        pack([ROUNDS, [Round(2, 5, [("a", 1)], []).data]]),
        pack([ROUNDS, [Round(1, 5, [("a", 1)], []).data]]),
        pack([PROPOSE, 1, 0, 1, [forms(ITEM)] * 2]),
        pack([PROPOSE, 1, 0, 1, [forms(ITEM._replace(renaming=ITEM.renaming._replace(actor=STAR)))]]),
        pack([PROPOSE, 1, 0, 1, [forms(ITEM._replace(renaming=ITEM.renaming._replace(after=(4,))))]]),
        pack([PROPOSE, 1, 0, 1, [forms(ITEM._replace(renaming=ITEM.renaming._replace(before=())))]]),
        pack([PROPOSE, 1, 0, 1, [forms(ITEM._replace(key=Key(99, "c")))]]),
        pack([PROPOSE, 1, 0, 1, [forms(ITEM._replace(renaming=ITEM.renaming._replace(number=0)))]]),
        pack([DECIDE, 1, 1, Round(1, 5, [("a", 1)], []).data]),
    ],
)
def test_what_is_malformed_or_forged_is_refused_counted_and_told(body: bytes) -> None:
    world, (a, _, _) = network()
    stranger = newcomer(world, a)
    if body[1:2] != bytes([STAND]):
        stranger.say(ROUND, pack([STAND, 0, 0, 1, True, "stranger:1"]))
        world.run(20)
    before = hold(a, GCounter, "count").state.encode(), a.control.replication.refused
    stranger.say(ROUND, body)
    world.run(20)
    assert a.control.replication.refused == before[1] + 1
    assert a.told("state_refused")
    assert hold(a, GCounter, "count").state.encode() == before[0]
    assert number(a) == 0


def test_an_answer_that_nobody_asked_for_counts_for_nothing() -> None:
    world, (a, _, _) = network()
    stranger = newcomer(world, a)
    stranger.say(ROUND, pack([STAND, 0, 0, 1, True, "stranger:1"]))
    stranger.say(ROUND, pack([PROMISE, 1, 1, True, 1, 0, "", b""]))
    stranger.say(ROUND, pack([DECIDED, 1, 1, 1]))
    world.run(20)
    assert number(a) == 0
    items = [ITEM]
    a.control.replication.pruning.deciding.propose(items, ["a", "b", "c"], 3, a.clock.now_ns)
    with pytest.raises(ProtocolError, match="was not asked"):
        a.control.replication.pruning.deciding.on_promise("x", 1, 1, True, 1, 0, "", b"")


# -- limits


def chain_of(count: int, **limits: int) -> Chain:
    chain = Chain(EngineConfig(**limits))
    for at in range(count):
        item = Item(Key(COUNTER, "c"), Renaming(f"c:{at + 1}", 1, at, (1,), (at + 1,)))
        chain.add(Round(at + 1, chain.id, [("a", 1)], [item]))
    return chain


@pytest.mark.parametrize(("count", "oldest"), [(3, 1), (4, 2), (9, 7)])
def test_so_many_rounds_are_kept_and_no_more(count: int, oldest: int) -> None:
    chain = chain_of(count, state_rounds_max=3)
    assert chain.oldest == oldest
    assert [each.actor for each in chain.names(Key(COUNTER, "c"))] == [
        f"c:{at}" for at in range(oldest, count + 1)
    ]
    assert chain.id_of(oldest - 1) == (chain.kept[0].prev)
    assert chain.id_of(oldest - 2) is None
    again = Chain(EngineConfig(state_rounds_max=3))
    again.decode(chain.encode())
    assert (again.number, again.id, again.voters) == (chain.number, chain.id, chain.voters)
    assert again.names(Key(COUNTER, "c")) == chain.names(Key(COUNTER, "c"))


def test_so_many_bytes_of_rounds_are_kept_and_no_more() -> None:
    chain = Chain(EngineConfig(state_rounds_bytes_max=BODY_BYTES))
    while chain.oldest == 1:
        items = [
            Item(Key(COUNTER, f"{at}{'x' * 100}"), Renaming("c:1", 1, 0, (1,), (1,)))
            for at in range(ITEMS_MAX)
        ]
        chain.add(Round(chain.number + 1, chain.id, [("a", 1)], items))
    assert chain.bytes <= BODY_BYTES < chain.bytes + len(chain.kept[0].data)
    with pytest.raises(ConfigError, match="state_rounds_bytes_max"):
        EngineConfig(state_rounds_bytes_max=BODY_BYTES - 1)


def test_a_round_has_so_many_items() -> None:
    items = [Item(Key(COUNTER, str(at)), ITEM.renaming) for at in range(ITEMS_MAX + 1)]
    Round.decode(Round(1, 0, [("a", 1)], items[:-1]).data)
    with pytest.raises(ProtocolError):
        Round.decode(Round(1, 0, [("a", 1)], items).data)
