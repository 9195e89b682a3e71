"""News of nodes: to whom it is told, once, and who knows it already."""

from __future__ import annotations

from agentnet.sim import Node, Token, World
from agentnet_core.config import EngineConfig
from agentnet_core.member_record import NodeRecord, pack_record, read_record
from agentnet_core.news import NEVER, News
from agentnet_core.overlay import Rings
from agentnet_core.records import agent_id_of
from agentnet_core.roster import split_members

MS = 1_000_000


def pack(node_id: str) -> list[bytes]:
    return [pack_record(NodeRecord(node_id, 1, ()))]


def told(news: News, *peers: str) -> dict[str, list[str]]:
    """Of whom each peer is told."""
    return {
        peer: [read_record(item).node_id for body in bodies for item in split_members(body)]
        for peer, bodies in news.drain(peers, 0, pack)
    }


def test_who_told_it_is_not_told() -> None:
    news = News()
    news.note("x", "a")
    news.note("y")
    news.echoed("x", "b")
    news.echoed("z", "b")  # known long since
    assert told(news, "a", "b", "c") == {"a": ["y"], "b": ["y"], "c": ["x", "y"]}
    assert told(news, "a") == {"a": []}


def test_what_changed_again_is_told_to_all_but_the_last_teller() -> None:
    news = News()
    news.note("x", "a")
    news.echoed("x", "b")
    news.note("x", "c")
    assert told(news, "a", "b", "c") == {"a": ["x"], "b": ["x"], "c": []}


def test_in_a_large_network_some_are_told_together() -> None:
    news = News()
    assert news.due_ns(100) == NEVER
    news.note("x")
    assert news.due_ns(1) == 0
    news.drain((), 7 * MS, pack)
    news.note("y")
    assert (news.due_ns(1), news.due_ns(100)) == (7 * MS, 57 * MS)


def test_who_comes_is_told_later_than_who_goes() -> None:
    news = News()
    news.drain((), 7 * MS, pack)
    news.note("comes", urgent=False)
    assert (news.due_ns(1), news.due_ns(100), news.due_ns(1_000)) == (7 * MS, 207 * MS, 1_007 * MS)
    news.note("goes")
    assert (news.due_ns(100), news.due_ns(100, along=True)) == (57 * MS, 32 * MS)
    news.drain((), 57 * MS, pack)
    news.note("comes", urgent=False)
    assert news.due_ns(100) == 257 * MS


def test_in_a_mesh_the_rings_hear_it() -> None:
    names = [f"n{number}" for number in range(30)]
    rings = Rings(EngineConfig(overlay_rings=4), names)
    assert rings.is_mesh("n0")
    assert len(rings.neighbours("n0")) == 29
    heard = rings.listeners("n0")
    assert 4 <= len(heard) <= 8
    assert not set(heard) & set(rings.listeners("n0", heard))
    reached, new = {"n0"}, ["n0"]
    while new:
        new = [name for each in new for name in rings.listeners(each) if name not in reached]
        reached.update(new)
    assert reached == set(names)


def test_a_mesh_agrees_though_few_are_told() -> None:
    world = World(seed=3)
    nodes = world.join(*(f"n{number}" for number in range(24)))
    late = world.node("late")
    world.finish(late.join("n0"))
    world.until(world.agreed)
    members = [node.control.membership for node in nodes]
    assert all(len(each.neighbours()) == 24 and 4 <= len(each.listeners()) <= 8 for each in members)
    late.kill()
    world.until(lambda: all(len(node.control.membership) == 24 for node in nodes), ms=5_000)


def test_who_joins_amid_news_of_others_has_heard_all() -> None:
    """What comes first on a link is the answer to the digest, and no news that might be taken for it."""
    world = World(seed=1)
    home = world.node("home")
    home.control.found(bytes(16))
    home.agent("kept")
    joining: dict[str, tuple[Node, Token]] = {}
    joined = 0

    def come(guest: Node) -> None:
        joining[guest.name] = guest, guest.restart("home") if guest.dead else guest.join("home")

    def look() -> bool:
        nonlocal joined
        for guest, token in [each for each in joining.values() if each[1].done]:
            del joining[guest.name]
            joined += 1
            assert token.error is None
            assert guest.control.directory.get(agent_id_of("kept")) is not None
            stay_ms = world.rng.random() * 50
            world.after(stay_ms, guest.leave)
            world.after(stay_ms + 5, come, guest)
        return joined >= 400

    for number in range(4):
        world.after(world.rng.random() * 8, come, world.node(f"guest-{number}"))
    world.until(look)
