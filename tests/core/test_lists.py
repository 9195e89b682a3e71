"""Lists that others pass on: in whatever order, how often and over which ways, all come to hold the same."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentnet_core.agent_record import AgentRecord
from agentnet_core.claims import Applied
from agentnet_core.config import EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.errors import ProtocolError
from agentnet_core.listing import Confirm, wire_form

FRAME_BYTES = 300


def directory(node_id: str, *agents: int, incarnation: int = 1, **limits: int) -> Directory:
    made = Directory(node_id, incarnation, EngineConfig(**limits))
    made.body_bytes = FRAME_BYTES
    if agents:
        register(made, *agents)
    made.take_changes()
    return made


def register(one: Directory, *agents: int, capability: str = "") -> list[bytes]:
    one.register([AgentRecord(i, "", None, (capability,) if capability else ()) for i in agents])
    return one.take_changes()


def feed(to: Directory, source: str, bodies: Iterable[bytes]) -> list[Applied]:
    return [to.apply(source, to.read(body)) for body in bodies]


def ids(one: Directory, owner: str = "a") -> list[int]:
    return sorted(record.agent_id for record in one.owned_by(owner))


# -- whole lists


def test_a_list_may_come_from_anybody_who_holds_it() -> None:
    a, b, c = directory("a", *range(1, 60)), directory("b"), directory("c")
    feed(b, "a", a.whole_list("a"))
    parts = b.whole_list("a")
    assert len(parts) > 2
    *rest, last = feed(c, "b", parts)
    assert all(applied.version == 0 and applied.confirms == [] for applied in rest)
    assert c.held("a") == a.held("a") == (1, last.version)
    assert ids(c) == ids(a)
    assert [Confirm.decode(body) for body in last.confirms] == [Confirm("a", 1, last.version)]


def test_a_list_is_given_to_who_holds_less() -> None:
    a, b = directory("a", 1), directory("b")
    assert b.whole_list("a") == b.whole_list("nobody") == []
    feed(b, "a", a.whole_list("a"))
    assert b.whole_list("a", 1, 1) == b.whole_list("a", 1, 2) == b.whole_list("a", 2, 0) == []
    assert b.whole_list("a", 1, 0) == b.whole_list("a", 0, 9) == a.whole_list("a")


def test_a_list_with_holes_is_given_to_nobody() -> None:
    a, b = directory("a", 1, 2, 3), directory("b", agents_max=2)
    feed(b, "a", a.whole_list("a"))
    assert b.held("a") == (1, 1)
    assert b.whole_list("a") == []


def test_lists_of_two_links_do_not_mix() -> None:
    a, c = directory("a", *range(1, 60)), directory("c")
    old = a.whole_list("a")
    a.unregister(range(1, 30))
    new = a.whole_list("a")
    feed(c, "x", old[:2])
    assert feed(c, "y", new[1:2])[0].added == [], "no part without the first"
    assert feed(c, "y", old)[-1].version == 0, "what is under way need not come again"
    feed(c, "y", new[:1])
    assert feed(c, "x", old[2:])[-1].version == 0, "outdone by a newer one"
    assert c.held("a") == (0, 0)
    feed(c, "y", new[1:])
    assert c.held("a") == (1, a.version)
    assert ids(c) == ids(a)


def test_a_list_that_breaks_off_is_held_by_nobody_until_another_brings_it() -> None:
    a, c = directory("a", *range(1, 60)), directory("c")
    parts = a.whole_list("a")
    feed(c, "x", parts[:2])
    assert c.interrupt("y") == []
    assert c.interrupt("x") == ["a"]
    assert c.interrupt("x") == []
    assert c.held("a") == (0, 0)
    assert c.whole_list("a") == []
    assert feed(c, "x", parts[2:])[-1].version == 0, "the rest of it is of no use any more"
    feed(c, "y", parts)
    assert ids(c) == ids(a)


def test_a_list_that_nobody_waits_for_any_more_may_come_from_another() -> None:
    a, c = directory("a", *range(1, 60)), directory("c")
    parts = a.whole_list("a")
    feed(c, "x", parts[:2])
    c.give_up("a")
    feed(c, "y", parts[:-1])
    feed(c, "x", parts[2:])
    assert c.held("a") == (0, 0)
    feed(c, "y", parts[-1:])
    assert ids(c) == ids(a)


# -- changes


def test_changes_before_their_base_wait_for_it() -> None:
    a, c = directory("a"), directory("c")
    changes = [register(a, i)[0] for i in range(1, 6)]
    early = feed(c, "x", reversed(changes[1:]))
    assert all(applied.lacks and not applied.added for applied in early)
    (filled,) = feed(c, "y", changes[:1])
    assert (filled.version, filled.lacks, len(filled.added)) == (5, False, 5)
    assert [Confirm.decode(body) for body in filled.confirms] == [Confirm("a", 1, 5)]
    assert ids(c) == ids(a)
    assert c._early == {}


def test_who_came_and_went_before_it_was_told_of_never_was() -> None:
    a, c = directory("a"), directory("c")
    (come,) = register(a, 7)
    a.unregister([7])
    (go,) = a.take_changes()
    feed(c, "x", [go])
    (filled,) = feed(c, "x", [come])
    assert (filled.version, filled.added, filled.removed) == (2, [], [])
    assert ids(c) == []


def test_a_whole_list_makes_what_waits_useful_or_superfluous() -> None:
    a, c = directory("a", 1), directory("c")
    register(a, 2)
    whole = a.whole_list("a")
    lost, early = register(a, 3), register(a, 4)
    newest = a.whole_list("a")
    assert feed(c, "a", early)[0].lacks
    assert feed(c, "a", whole)[0].version == 2
    assert ids(c) == [1, 2]
    assert feed(c, "x", newest)[0].version == 4
    assert ids(c) == [1, 2, 3, 4]
    assert c._early == {}
    (again,) = feed(c, "a", lost)
    assert (again.added, again.version) == ([], 4)
    assert [Confirm.decode(body) for body in again.confirms] == [Confirm("a", 1, 4)], "it is here"


def test_a_change_is_taken_while_a_list_comes() -> None:
    a, c = directory("a", *range(1, 60)), directory("c")
    parts = a.whole_list("a")
    feed(c, "x", parts[:1])
    (early,) = feed(c, "a", register(a, 99))
    assert (early.added, early.lacks) == ([], False), "the list will be its base"
    assert feed(c, "x", parts[1:])[-1].version == a.version
    assert ids(c) == ids(a)


@pytest.mark.parametrize("more", [0, 1])
def test_the_oldest_of_too_many_early_changes_goes(more: int) -> None:
    a, c = directory("a"), directory("c", changes_early_max=3)
    first, *changes = [register(a, i)[0] for i in range(1, 5 + more)]
    feed(c, "a", changes)
    feed(c, "a", [first])
    assert c.held("a") == (1, 1 if more else 4)
    feed(c, "x", a.whole_list("a"))
    assert ids(c) == ids(a)


# -- lives


def test_a_new_life_takes_the_place_of_the_old_one() -> None:
    old, new, c = directory("a", 1, 2), directory("a", 2, 3, incarnation=2), directory("c")
    feed(c, "a", old.whole_list("a"))
    kept = c.get(2)
    (early,) = feed(c, "a", register(new, 4))
    assert early.lacks
    assert ids(c) == [1, 2]
    feed(c, "a", new.whole_list("a"))
    assert c.held("a") == (2, 2)
    assert ids(c) == [2, 3, 4]
    assert c.get(2) is kept
    assert feed(c, "x", [*old.whole_list("a"), *register(old, 9)])[0] == Applied(), "nothing of the dead"
    assert c.forget("a", 2) == Applied(), "the dead had no list any more"
    assert ids(c) == [2, 3, 4]
    assert len(c.forget("a", 3).removed) == 3


def test_nobody_speaks_in_the_name_of_who_hears_it() -> None:
    a, forger = directory("a", 1), directory("a", 1, 2)
    register(forger, 3)
    assert feed(a, "x", a.whole_list("a")) == [Applied()], "an echo"
    assert feed(a, "x", directory("a", 7, incarnation=2).whole_list("a")) == [Applied()]
    with pytest.raises(ProtocolError, match="told of version 2 of its own list: expected at most 1"):
        feed(a, "x", forger.whole_list("a"))
    assert ids(a) == [1]


# -- any order


class Owner:
    """Some lives of a node: every frame that says something of its list, and what each version holds."""

    def __init__(self, node_id: str, rng: Random) -> None:
        self.frames: list[list[bytes]] = []
        self.holds: dict[tuple[int, int], dict[int, AgentRecord]] = {}
        for incarnation in (1, 2)[: rng.randint(1, 2)]:
            self.now = directory(node_id, incarnation=incarnation)
            for _ in range(rng.randint(1, 6)):
                self.change(rng)

    def change(self, rng: Random) -> None:
        now = self.now
        if rng.random() < 0.6:
            some = sorted(rng.sample(range(1, 40), rng.choice((1, 2, 20))))
            frames = register(now, *some, capability=rng.choice("xyz"))
        else:
            mine = [record.agent_id for record in now.owned_by(now.node_id)]
            now.unregister(rng.sample(mine, rng.randint(0, len(mine))))
            frames = now.take_changes()
        self.frames += [[frame] for frame in frames]
        self.frames.append(now.whole_list(now.node_id))
        self.holds[now.held(now.node_id)] = {r.agent_id: r for r in now.owned_by(now.node_id)}


def check(reader: Directory, owners: dict[str, Owner]) -> None:
    """What is held of a version is what its owner had then."""
    for node_id, owner in owners.items():
        expected = owner.holds.get(reader.held(node_id))
        claims = reader._claims.get(node_id)
        if expected is not None and claims is not None:
            held = {i: wire_form(record) for i, record in claims.records.items()}
            assert held == {i: wire_form(record) for i, record in expected.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_whoever_has_got_the_newest_holds_the_same(seed: int) -> None:
    rng = Random(seed)
    owners = {node_id: Owner(node_id, rng) for node_id in "abc"}
    readers = [directory("d"), directory("e"), directory("f")]
    said = [frames for owner in owners.values() for frames in owner.frames]
    for reader in readers:
        links: dict[str, list[bytes]] = {name: [] for name in "wxyz"}
        for _ in range(60):
            link = rng.choice(list(links))
            if rng.random() < 0.05:
                links[link] = []
                reader.interrupt(link)
            if not links[link]:
                links[link] = list(rng.choice(said))
            feed(reader, link, [links[link].pop(0)])
            check(reader, owners)
        for node_id, owner in owners.items():
            source = rng.choice("wxyz")
            reader.interrupt(source)
            reader.give_up(node_id)
            feed(reader, source, owner.now.whole_list(node_id, *reader.held(node_id)))
            assert reader.held(node_id) == owner.now.held(node_id)
        check(reader, owners)
        assert len(reader) == len({i for owner in owners.values() for i in ids_of(owner)})
    views = [[(r.node_id, *wire_form(r)) for r in reader.agents()] for reader in readers]
    assert views[0] == views[1] == views[2]


def ids_of(owner: Owner) -> list[int]:
    return ids(owner.now, owner.now.node_id)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_all_changes_in_any_order_are_the_list(seed: int) -> None:
    rng = Random(seed)
    owner, reader = directory("a"), directory("d")
    frames = []
    for _ in range(rng.randint(1, 30)):
        mine = [record.agent_id for record in owner.owned_by("a")]
        if mine and rng.random() < 0.4:
            owner.unregister(rng.sample(mine, rng.randint(1, len(mine))))
        else:
            owner.register([AgentRecord(i, "") for i in rng.sample(range(1, 60), rng.randint(1, 30))])
        frames += owner.take_changes()
    told = frames + rng.choices(frames, k=len(frames) // 2)
    rng.shuffle(told)
    for frame in told:
        feed(reader, rng.choice("xyz"), [frame])
    assert reader.held("a") == owner.held("a")
    assert list(map(wire_form, reader.agents())) == list(map(wire_form, owner.agents()))


def test_a_reminder_is_confirmed_by_who_holds_the_list_and_makes_others_ask_for_it() -> None:
    a, c = directory("a"), directory("c")
    first, second = register(a, 1), register(a, 2)
    (lacking,) = feed(c, "a", [a.reminder()])
    assert (lacking.lacks, lacking.confirms) == (True, [])
    feed(c, "a", first)
    assert feed(c, "a", [a.reminder()])[0].lacks
    feed(c, "a", second)
    (reminded,) = feed(c, "a", [a.reminder()])
    assert [Confirm.decode(body) for body in reminded.confirms] == [Confirm("a", 1, 2)]
    third = register(a, 3)
    reminder = a.reminder()
    feed(c, "a", [*register(a, 4), reminder, *third])
    assert ids(c) == [1, 2, 3, 4], "it takes no change's place"
