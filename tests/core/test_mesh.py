"""A full mesh on a virtual clock: memberships and arbiters of some nodes, dials that fail, links that die."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentnet_core.config import EngineConfig
from agentnet_core.detector import NEVER
from agentnet_core.dials import Dial
from agentnet_core.handshake import LinkView, Ruling, arbitrate
from agentnet_core.membership import Membership

MS = 1_000_000
CONFIG = EngineConfig()


class Link:
    """``by``: who dialled. ``sides``: where it is welcomed."""

    def __init__(self, by: str, to: str, dial: Dial) -> None:
        self.by = by
        self.to = to
        self.dial: Dial | None = dial
        self.welcomed: dict[str, bool] = {by: False, to: False}
        self.closed: dict[str, bool] = {by: False, to: False}

    def peer(self, node_id: str) -> str:
        return self.to if node_id == self.by else self.by

    def view(self, node_id: str) -> LinkView:
        return LinkView(self.by == node_id, 1, self.welcomed[node_id])


class World:
    """Nodes, links and a heap of things to come; all chance is from one seed."""

    def __init__(self, seed: int, count: int, fail_share: float) -> None:
        self.rng = Random(seed)
        self.fail_share = fail_share
        self.now_ns = 0
        self.number = 0
        self.coming: list[tuple[int, int, Callable[[], None]]] = []
        self.names = [f"n{i}" for i in range(count)]
        self.rng.shuffle(self.names)
        self.at = {f"tcp://{name}:1": name for name in self.names}
        self.nodes = {
            name: Membership(name, 1, [f"tcp://{name}:1"], CONFIG, Random(seed + i))
            for i, name in enumerate(self.names)
        }
        self.links: dict[str, dict[str, Link]] = {name: {} for name in self.names}
        self.dialling: dict[str, dict[Dial, bool]] = {name: {} for name in self.names}
        self.dials = 0
        for name in self.names[1:]:
            self.nodes[name].bootstrap([f"tcp://{self.rng.choice(self.names)}:1"], 0)
            self.nodes[name].bootstrap([f"tcp://{self.names[0]}:1"], 0)

    def later(self, what: Callable[[], None]) -> None:
        self.number += 1
        delay_ns = int(self.rng.uniform(0.1, 40) * MS)
        heapq.heappush(self.coming, (self.now_ns + delay_ns, self.number, what))

    def run(self, until_ns: int) -> None:
        while True:
            for name in self.names:
                self.turn(name)
            due = [node.next_deadline_ns() for node in self.nodes.values()]
            assert min(due) > self.now_ns, "after a tick, nothing is due: else the driver would spin"
            next_ns = min(*due, self.coming[0][0] if self.coming else NEVER)
            if next_ns > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns = next_ns
            while self.coming and self.coming[0][0] <= self.now_ns:
                heapq.heappop(self.coming)[2]()

    # -- what the drivers do

    def turn(self, name: str) -> None:
        node = self.nodes[name]
        for dial in node.tick(self.now_ns, lambda _: self.now_ns):
            self.dial(name, dial)
        for helper, node_id in node.drain_probes():
            self.later(lambda helper=helper, node_id=node_id: self.ask(name, helper, node_id))
        links = dict(self.links[name])
        for peer, bodies in node.drain_news(links, self.now_ns):
            self.tell(links[peer], name, bodies)

    def ask(self, name: str, helper: str, node_id: str) -> None:
        vouch = self.nodes[helper].vouch(node_id, self.now_ns, self.now_ns)
        self.later(lambda: self.nodes[name].vouched(helper, vouch, self.now_ns))

    def dial(self, name: str, dial: Dial) -> None:
        assert dial not in self.dialling[name], "one dial at a time"
        assert all(other.address != dial.address for other in self.dialling[name])
        self.dialling[name][dial] = True
        self.dials += 1
        if self.rng.random() < self.fail_share:
            self.later(lambda: self.failed(name, dial, None))
        else:
            self.later(lambda: self.hello(Link(name, self.at[dial.address], dial)))

    def failed(self, name: str, dial: Dial, who: str | None) -> None:
        del self.dialling[name][dial]
        self.nodes[name].dial_failed(dial, "refused", self.now_ns, node_id=who)

    def hello(self, link: Link) -> None:
        """Both Hellos have come."""
        assert link.dial is not None
        if link.by == link.to:
            self.nodes[link.by].is_self(link.dial.address)
            self.failed(link.by, link.dial, None)
            return
        arbiter = max(link.by, link.to)
        old = self.links[arbiter].get(link.peer(arbiter))
        verdict = arbitrate(link.to, old.view(arbiter) if old else None, link.view(arbiter), arbiter=True)
        if verdict.ruling is Ruling.DUPLICATE:
            self.later(lambda: self.close(link, link.by))
            return
        if old is not None:
            assert verdict.ruling is Ruling.REPLACE
            self.close(old, arbiter, replaced=True)
            self.later(lambda: self.close(old, old.peer(arbiter)))
        self.welcome(link, arbiter)
        self.later(lambda: self.welcome(link, link.peer(arbiter)))

    def welcome(self, link: Link, name: str) -> None:
        if link.closed[name]:
            return
        peer = link.peer(name)
        if link.closed[peer]:
            self.close(link, name)
            return
        old = self.links[name].get(peer)
        if old is not None:
            self.close(old, name, replaced=True)
            self.later(lambda: self.close(old, peer))
        link.welcomed[name] = True
        self.links[name][peer] = link
        dial = link.dial if name == link.by else None
        if dial is not None:
            link.dial = None
            del self.dialling[name][dial]
        node = self.nodes[name]
        node.link_up(peer, 1, self.nodes[peer].addresses, self.now_ns, dial=dial)
        self.tell(link, name, node.frames())

    def tell(self, link: Link, name: str, bodies: list[bytes]) -> None:
        peer = link.peer(name)
        for body in bodies:
            self.later(
                lambda body=body: (
                    self.links[peer].get(name) is link and self.nodes[peer].learn(body, self.now_ns, name)
                )
            )

    def close(self, link: Link, name: str, *, replaced: bool = False) -> None:
        if link.closed[name]:
            return
        link.closed[name] = True
        peer = link.peer(name)
        if self.links[name].get(peer) is link:
            del self.links[name][peer]
            if not replaced:
                self.nodes[name].link_down(peer, self.now_ns)
        elif link.dial is not None and name == link.by:
            self.failed(name, link.dial, peer)

    def break_some(self, share: float) -> None:
        for name in self.names:
            for link in list(self.links[name].values()):
                if self.rng.random() < share:
                    self.close(link, name)
                    self.later(lambda link=link, name=name: self.close(link, link.peer(name)))

    # -- what must hold in the end

    def check_mesh(self) -> None:
        for one, other in combinations(self.names, 2):
            assert other in self.links[one], f"{one} has no link to {other}"
            assert self.links[one][other] is self.links[other][one], "they hold different links"
        for name, node in self.nodes.items():
            assert sorted(node.linked()) == sorted(set(self.names) - {name})
            assert [member.node_id for member in node.members()] == sorted(self.names)
            assert node.joined(self.now_ns)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([0.0, 0.3, 0.7]))
def test_all_link_to_all_whatever_fails(seed: int, count: int, fail_share: float) -> None:
    world = World(seed, count, fail_share)
    for second in range(1, 8):
        world.run(second * 1000 * MS)
        world.break_some(0.3)
    world.fail_share = 0.0
    world.run(60_000 * MS)
    world.check_mesh()
    quiet = world.dials
    world.run(120_000 * MS)
    assert world.dials == quiet, "a mesh that is whole needs no dials"
    world.check_mesh()


@pytest.mark.parametrize("seed", range(3))
def test_a_mesh_without_faults_is_quick_and_hardly_wastes_a_dial(seed: int) -> None:
    world = World(seed, 5, 0.0)
    world.run(700 * MS)
    world.check_mesh()
    assert world.dials <= 2 * 10 + 8


def test_a_partition_heals_after_nodes_were_lost() -> None:
    world = World(1, 5, 0.0)
    world.run(2000 * MS)
    world.check_mesh()
    world.fail_share = 1.0
    world.break_some(1.0)
    world.run(30_000 * MS)
    for node in world.nodes.values():
        assert [event.kind for event in node.drain_events()] == ["joined"] * 4 + ["lost"] * 4
    world.fail_share = 0.0
    world.run(36_000 * MS)
    world.check_mesh()
