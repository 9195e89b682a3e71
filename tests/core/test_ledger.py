"""The books of a signed network: whatever an owner does to its list, others hold what it signed."""

from __future__ import annotations

from random import Random

import pytest
from harness import UUID

from agentnet.sim.notary import Notary
from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.directory import Directory
from agentnet_core.ledger import Ledger
from agentnet_core.listing import wire_form
from agentnet_core.signing import Head, Seals
from agentnet_core.tally import Tally

NOTARY = Notary()


def directory(name: str, told: list[object]) -> Directory:
    seals = Seals(NOTARY.issue(name), EngineConfig(), told.append)
    seals.network = lambda: UUID
    ledger = Ledger(name, 1, EngineConfig(), seals, lambda owner, _: NOTARY.certificate(owner))
    made = Directory(name, 1, EngineConfig(), ledger)
    made.body_bytes = 400
    return made


def change(one: Directory, rng: Random) -> None:
    """Something happens to its list, perhaps to many at once."""
    ids = [rng.randrange(1, 60) for _ in range(rng.choice((1, 3, 40)))]
    mine = [i for i in dict.fromkeys(ids) if one.is_mine(i)]
    match rng.randrange(4):
        case 0:
            words = rng.choice(((), ("read",), ("read", "write")))
            one.register(
                [AgentRecord(i, "", None, words, {"k": str(rng.random())}) for i in dict.fromkeys(ids)]
            )
        case 1 if mine:
            one.unregister(mine)
        case 2 if mine:
            one.say_health(mine[0], rng.choice(("", "quota gone")))
        case 3 if mine:
            one.regroup(mine[0], rng.choice(((), ("g",), ("g", "h"))))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_changes_adds_up(seed: int) -> None:
    """By changes, late or twice or lost and pulled whole, from the owner or from one who holds it."""
    rng, told = Random(seed), list[object]()
    a, b, c = (directory(name, told) for name in "abc")
    for _ in range(60):
        change(a, rng)
        bodies = a.take_changes()
        if rng.random() < 0.3:
            rng.shuffle(bodies)
        for body in bodies * rng.choice((1, 1, 2)):
            if rng.random() < 0.9:
                b.apply("a", b.read(body))
        if b.held("a") != a.held("a"):
            b.give_up("a")
            for body in a.whole_list("a", *b.held("a")):
                b.apply("a", b.read(body))
        assert b.held("a") == a.held("a")
        if rng.random() < 0.2:
            for body in b.whole_list("a", *c.held("a")):
                c.apply("b", c.read(body))
            assert c.held("a") == a.held("a")
    for other in (b, c):
        for body in a.whole_list("a", *other.held("a")):
            other.apply("a", other.read(body))
        theirs = sorted(map(wire_form, other.owned_by("a")), key=lambda form: form[0])
        assert theirs == sorted(map(wire_form, a.owned_by("a")), key=lambda form: form[0])
    assert told == [], "nobody lied"


def test_a_tally_is_of_a_set() -> None:
    """In any order, and what goes leaves nothing behind."""
    one, other = Tally(), Tally()
    for word in (b"a", b"b", b"c"):
        one.add(word)
    for word in (b"c", b"x", b"a", b"b"):
        other.add(word)
    assert one.digest() != other.digest()
    other.drop(b"x")
    head = Head(3, one.digest(), b"signature")
    assert one.is_of(head)
    assert other.is_of(head)
    other.drop(b"a")
    other.add(b"b")
    assert not other.is_of(head)
