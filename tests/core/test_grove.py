"""Broadcasts along a tree in small networks: whatever happens, all nodes get all, once."""

from __future__ import annotations

from collections import deque
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentnet_core.config import EngineConfig
from agentnet_core.gossip import Frame, Prune, decode, encode
from agentnet_core.tree import Tree

MS = 1_000_000


class Grove:
    """Trees and the links between them, each with its frames under way; time passes when it is told to."""

    def __init__(self, *links: tuple[str, str]) -> None:
        self.now_ns = 0
        self.trees: dict[str, Tree] = {}
        self.ways: dict[tuple[str, str], deque[Frame]] = {}
        self.delivered: dict[str, list[bytes]] = {}
        for one, other in links:
            self.link(one, other)

    def link(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            made = self.trees.setdefault(name, Tree(name, 1, EngineConfig()))
            self.delivered.setdefault(name, [])
            self.ways[name, peer] = deque()
            made.link_up(peer, self.now_ns)
            self.turn(name)

    def cut(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            del self.ways[name, peer]
            self.trees[name].link_down(peer, self.now_ns)
            self.turn(name)

    def turn(self, name: str) -> None:
        for peers, frame in self.trees[name].drain_frames():
            for peer in peers:
                self.ways[name, peer].append(frame)
        self.delivered[name] += [each.broadcast for each in self.trees[name].drain_delivered()]

    def publish(self, name: str) -> bytes:
        broadcast = self.trees[name].publish(b"p", self.now_ns)
        self.delivered[name].append(broadcast)
        self.turn(name)
        return broadcast

    def step(self, which: int) -> bool:
        """One frame arrives, on one of the ways that have any; False if none has."""
        busy = [way for way, frames in self.ways.items() if frames]
        if not busy:
            return False
        source, target = busy[which % len(busy)]
        frame = decode(*encode(self.ways[source, target].popleft()))
        self.trees[target].receive(source, frame, self.now_ns)
        self.turn(target)
        return True

    def settle(self, ms: int = 2000) -> None:
        """All that is under way arrives, and then that much time passes."""
        for _ in range(ms // 50):
            while self.step(0):
                pass
            self.now_ns += 50 * MS
            for name, each in self.trees.items():
                if each.next_deadline_ns() <= self.now_ns:
                    each.tick(self.now_ns)
                self.turn(name)

    def everywhere(self, *broadcasts: bytes) -> bool:
        """Whether each of them was delivered everywhere, and nothing twice."""
        return all(
            set(broadcasts) <= set(here) and len(set(here)) == len(here) for here in self.delivered.values()
        )


MESH = tuple(combinations("abcdef", 2))


def test_one_broadcast_makes_a_tree_and_the_next_ones_follow_it() -> None:
    grove = Grove(*MESH)
    first = grove.publish("a")
    grove.settle()
    assert sum(len(each.eager()) for each in grove.trees.values()) == 2 * (len(grove.trees) - 1)
    copies = sum(each.duplicates for each in grove.trees.values())
    rest = [grove.publish(name) for name in "fedcba"]
    grove.settle()
    assert grove.everywhere(first, *rest)
    assert sum(each.duplicates for each in grove.trees.values()) == copies


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), st.integers(0, 99))
def test_origins_that_broadcast_at_once_make_one_tree(origins: list[str], which: int) -> None:
    grove = Grove(*MESH)
    broadcasts = [grove.publish(name) for name in origins]
    while grove.step(which):
        pass
    grove.settle()
    assert grove.everywhere(*broadcasts)
    assert sum(len(each.eager()) for each in grove.trees.values()) == 2 * (len(grove.trees) - 1)


def test_a_broken_tree_is_mended_by_the_next_broadcast() -> None:
    grove = Grove(*MESH)
    grove.publish("a")
    grove.settle()
    for name in grove.trees["a"].eager()[:-1]:
        grove.cut("a", name)
    broadcast = grove.publish("b")
    grove.settle()
    assert grove.everywhere(broadcast)


def test_links_that_are_pruned_apart_do_not_stay_so() -> None:
    grove = Grove(*MESH)
    for one, other in MESH:
        grove.trees[one].receive(other, Prune(), 0)
        grove.trees[other].receive(one, Prune(), 0)
    broadcast = grove.publish("a")
    grove.settle()
    assert grove.everywhere(broadcast)
    assert all(each.eager() for each in grove.trees.values())


def test_a_node_that_was_cut_off_gets_what_it_missed() -> None:
    grove = Grove(("a", "b"), ("b", "c"))
    grove.publish("c")
    grove.settle()
    grove.cut("b", "c")
    missed = [grove.publish("a") for _ in range(3)]
    others = [grove.publish("c") for _ in range(3)]
    grove.settle(30_000)
    grove.link("b", "c")
    grove.settle()
    assert grove.everywhere(*missed, *others)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(["publish", "cut", "link", "wait"]), st.integers(0, 99)), max_size=30),
    st.integers(0, 99),
)
def test_whatever_happens_all_get_all_once(happens: list[tuple[str, int]], which: int) -> None:
    """Several origins at once, links that come and go with frames under way, any order of arrival."""
    grove = Grove(*MESH)
    broadcasts = []
    for what, number in happens:
        one, other = MESH[number % len(MESH)]
        if what == "publish":
            broadcasts.append(grove.publish(one))
        elif what == "wait":
            grove.settle(number * 10)
        elif (one, other) in grove.ways and what == "cut":
            grove.cut(one, other)
        elif (one, other) not in grove.ways and what == "link":
            grove.link(one, other)
        for _ in range(number % 7):
            grove.step(which)
    for one, other in MESH:
        if (one, other) not in grove.ways:
            grove.link(one, other)
    grove.settle(3000)
    assert grove.everywhere(*broadcasts)
    assert not any(each.missed for each in grove.trees.values())
    assert not any(each.awaited for each in grove.trees.values())
