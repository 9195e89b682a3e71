"""Two nodes that cannot dial each other: what they send goes through one that is linked with both."""

from __future__ import annotations

from typing import Any

import pytest
from apart import apart
from harness import CARRY, CREDIT, MS, TUNNEL, UUID, Agent, Node, Token, Weather, World
from strangers import Stranger

from agentnet_core.body import pack, unpack
from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentUnreachable, LinkLost
from agentnet_core.message import AgentMessage
from agentnet_core.records import Delivery, Event, NodeStatus
from agentnet_core.tunnels import END, OPEN, OPENED, TAKEN, Leg


def echo(message: AgentMessage) -> bytes:
    return message.payload


def blocked(
    world: World, *names: str, config: EngineConfig | None = None, **of_one: EngineConfig
) -> list[Node]:
    """Nodes that all know each other; nothing gets between the first and the second. Each has an agent."""
    nodes = [world.node(name, config=of_one.get(name, config)) for name in names]
    nodes[0].control.found(bytes(range(16)))
    for node in nodes[1:]:
        world.finish(node.join(names[0]))
    world.until(lambda: all(len(node.engine.sessions) == len(nodes) - 1 for node in nodes))
    for node in nodes:
        node.agent(f"of {node.name}", echo)
    world.block(names[0], names[1])
    world.block(names[1], names[0])
    part(world, nodes[0], nodes[1])
    return nodes


def part(world: World, one: Node, other: Node) -> None:
    """Wait until neither has a link to the other."""
    world.until(
        lambda: other.name not in one.engine.sessions and one.name not in other.engine.sessions, ms=60_000
    )


def slow_down(world: World, *names: str) -> None:
    """The last is far from the others: what goes straight overtakes what goes through it."""
    for name in names[:-1]:
        for ends in ((name, names[-1]), (names[-1], name)):
            world.network.weathers[ends] = Weather(delay_ns=(30 * MS, 40 * MS))


def heal(world: World, *nodes: Node) -> None:
    """Wait until they reach each other again, and are linked so, all of them, without a tunnel."""
    world.heal()
    world.until(lambda: all(len(node.engine.sessions) == len(nodes) - 1 for node in nodes))
    world.until(lambda: not any(session.relay for node in nodes for session in node.engine.links))
    world.until(lambda: not any(node.stats["tunnels"] + node.stats["tunnels_relayed"] for node in nodes))


def asker(node: Node) -> Agent:
    return next(iter(node.engine.ports.values()))


def relay(node: Node, of: str) -> str:
    return next(member.relay for member in node.control.members() if member.node_id == of)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("names", ["abc", "bac"])
def test_a_request_goes_through_a_node_that_is_linked_with_both(secure: bool, names: str) -> None:
    world = World(secure=secure)
    a, b, c = blocked(world, *names)
    answer = asker(a).request(f"of {b.name}", b"there?")
    assert world.finish(answer).answer == b"there?"
    assert relay(a, b.name) == relay(b, a.name) == "c"
    member = next(m for m in a.control.members() if m.node_id == b.name)
    assert member.status is NodeStatus.ACTIVE
    assert c.stats["tunnels_relayed"] == 1
    assert a.stats["tunnels"] == b.stats["tunnels"] == 1
    assert c.stats["bytes_relayed"] > 500


def test_a_megabyte_arrives_whole_and_holds_nobody_up() -> None:
    world = World()
    a, b, c = blocked(world, "a", "b", "c")
    big = world.rng.randbytes(1 << 20)
    asked = [asker(a).request("of b", big), asker(b).request("of a", big)]
    world.until(lambda: c.stats["tunnels_relayed"])
    while not all(each.done for each in asked):
        began_ns = world.now_ns
        assert world.finish(asker(c).request("of b", b"small")).answer == b"small"
        assert world.now_ns - began_ns < 50 * MS
    assert all(each.answer == big for each in asked)
    assert c.stats["bytes_relayed"] > 4 << 20


def test_what_was_under_way_is_unknown_when_the_relay_dies_and_the_next_goes_through_another() -> None:
    world = World()
    a, b, c, d = blocked(world, "a", "b", "c", "d")
    b.agent("slow", echo, service_ns=5_000 * MS)
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    relays = {node.name: node for node in (c, d)}
    first = relays[relay(a, "b")]
    asked = asker(a).request("slow", b"2")
    world.run(50)
    first.kill()
    with pytest.raises(LinkLost) as caught:
        world.finish(asked)
    assert not caught.value.definite
    assert world.finish(asker(a).request("of b", b"3")).answer == b"3"
    assert relay(a, "b") in relays.keys() - {first.name}


@pytest.mark.parametrize("seed", range(10))
def test_a_link_of_its_own_takes_over_and_nothing_is_lost_or_out_of_order(seed: int) -> None:
    world = World(seed)
    a, b, _ = nodes = blocked(world, "a", "b", "c")
    sink = b.agent("sink", lambda message: message.payload, service_ns=200_000)
    source = asker(a)
    assert world.finish(source.request("of b", b"")).answer == b""
    slow_down(world, "a", "b", "c")
    asked, number = [], 0

    def ask() -> None:
        nonlocal number
        payload = (b"%d " % number).ljust(world.rng.choice((8, 8, 8, 100_000)))
        number += 1
        asked.append((payload, source.request("sink", payload)))
        asked.append((b"back", asker(b).request("of a", b"back")))

    for _ in range(50):
        ask()
        world.run(world.rng.random() * 20)
    assert relay(a, "b") == "c"
    world.heal()
    for _ in range(20_000):
        if not (relay(a, "b") or a.stats["tunnels"]):
            break
        ask()
        world.run(world.rng.random() * 20)
    heal(world, *nodes)
    world.until(lambda: all(token.done for _, token in asked))
    assert [token.answer for _, token in asked] == [payload for payload, _ in asked]
    assert [int(payload.split(b" ")[0]) for payload in sink.payloads] == list(range(number))
    assert a.stats["replies_lost"] == b.stats["replies_lost"] == a.stats["replies_late"] == 0


@pytest.mark.parametrize("delivery", [Delivery.ACKNOWLEDGED, Delivery.DURABLE])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_promised_is_kept_when_a_link_of_its_own_takes_over(seed: int, delivery: Delivery) -> None:
    world = World(seed)
    a, b, _ = nodes = blocked(world, "a", "b", "c")
    sink = b.agent("sink", lambda _: None)
    source = asker(a)
    assert world.finish(source.request("of b", b"")).answer == b""
    slow_down(world, "a", "b", "c")
    sent: list[Any] = []

    def send() -> None:
        for _ in range(3):
            payload = (b"%d " % len(sent)).ljust(world.rng.choice((8, 8, 8, 60_000, 300_000)))
            sent.append(source.send("sink", payload, delivery=delivery))

    for _ in range(20):
        send()
        world.run(world.rng.random() * 20)
    assert relay(a, "b") == "c"
    world.heal()
    while relay(a, "b") or a.stats["tunnels"]:
        send()
        world.run(world.rng.random() * 20)
    heal(world, *nodes)
    world.until(lambda: not a.stats["letters"])
    numbers = [int(payload.split(b" ")[0]) for payload in sink.payloads]
    assert numbers == list(range(len(sent)))
    assert not any(token.error for token in sent if isinstance(token, Token))


def test_a_tunnel_that_is_not_used_is_given_up() -> None:
    world = World()
    config = EngineConfig(data_idle_ms=500)
    a, b, c = blocked(world, "a", "b", "c", config=config)
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    world.until(lambda: not any(node.stats["tunnels"] + node.stats["tunnels_relayed"] for node in (a, b, c)))
    assert "b" not in a.engine.sessions
    assert a.stats["links_retired"] == 1
    assert world.finish(asker(a).request("of b", b"2")).answer == b"2"


def test_one_more_than_a_node_relays_goes_through_another_or_fails_and_says_why() -> None:
    world = World()
    config = EngineConfig(relayed_max=1)
    a, b, c, d, e = nodes = blocked(world, "a", "b", "c", "d", "e", config=config)
    world.partition(["a", "d"], ["b", "e"])
    part(world, d, e)
    part(world, d, b)
    part(world, a, e)
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    assert c.stats["tunnels_relayed"] == 1
    with pytest.raises(AgentUnreachable, match=r"node c relays 1 tunnels already \(relayed_max\)") as caught:
        world.finish(asker(d).request("of e", b"2"))
    assert caught.value.definite
    assert c.stats["tunnels_refused"] >= 1
    f = world.node("f", config=config)
    world.finish(f.join("c"))
    world.until(lambda: all(f.name in node.engine.sessions for node in nodes))
    assert world.finish(asker(d).request("of e", b"3")).answer == b"3"
    assert relay(d, "e") == "f"


def test_more_tunnels_than_may_end_at_a_node_are_not_made() -> None:
    world = World()
    config = EngineConfig(tunnels_max=1)
    a, b, _, d = blocked(world, "a", "b", "c", "d", config=config)
    world.partition(["a"], ["b", "d"])
    part(world, a, d)
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    with pytest.raises(AgentUnreachable, match=r"1 tunnels end here already \(tunnels_max\)") as caught:
        world.finish(asker(a).request("of d", b"2"))
    assert caught.value.definite
    with pytest.raises(AgentUnreachable, match=r"node a is the end of 1 tunnels already \(tunnels_max\)"):
        world.finish(asker(d).request("of a", b"2"))
    assert world.finish(asker(b).request("of a", b"3")).answer == b"3"


def test_a_node_that_does_not_relay_is_not_used() -> None:
    world = World()
    a, _, _, _ = blocked(world, "a", "b", "c", "d", c=EngineConfig(relay=False))
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    assert relay(a, "b") == "d"


@pytest.mark.parametrize("tries", [1, 2, 3, 4])
def test_so_many_are_asked_and_no_more(tries: int) -> None:
    world = World()
    no, config = EngineConfig(relay=False), EngineConfig(relay_tries_max=tries)
    a, *others = blocked(world, "a", "b", "c", "d", "e", config=config, c=no, d=no, e=no)
    with pytest.raises(AgentUnreachable, match="does not relay") as caught:
        world.finish(asker(a).request("of b", b"1"))
    assert sum(node.stats["tunnels_refused"] for node in others) == min(tries, 3)
    assert str(caught.value).count("does not relay") == min(tries, 3)


def test_where_nobody_relays_it_fails_and_says_so() -> None:
    world = World()
    a, _, _ = blocked(world, "a", "b", "c", config=EngineConfig(relay=False))
    with pytest.raises(AgentUnreachable, match=r"node c does not relay \(relay=False\)") as caught:
        world.finish(asker(a).request("of b", b"1"))
    assert caught.value.definite


def test_a_node_that_does_not_answer_is_looked_for_through_others_before_its_dial_has_ended() -> None:
    world = World()
    a, b, _ = nodes = apart(world, "a", "b", "c", kept=("ac", "bc"))
    b.agent("of b", echo)
    source = a.agent("of a", echo)
    part(world, a, b)
    world.block("a", "b")
    world.block("b", "a")
    began_ns = world.now_ns
    assert world.finish(source.request("of b", b"1")).answer == b"1"
    assert 1_000 * MS <= world.now_ns - began_ns < 1_300 * MS
    began_ns = world.now_ns
    assert world.finish(source.request("of b", b"2")).answer == b"2"
    assert world.now_ns - began_ns < 5 * MS
    assert sum(node.stats["tunnels_opened"] for node in nodes) == 1


def test_a_relay_that_alters_bytes_ends_that_link_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    a, b, c = blocked(world, "a", "b", "c")
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    (leg,) = [leg.beyond for legs in c.control.tunnels._theirs.values() for leg in legs.values()]
    take = Leg.take

    def lie(self: Leg, most: int) -> bytes | None:
        piece = take(self, most)
        return piece[:-1] + bytes([piece[-1] ^ 1]) if piece and self is leg else piece

    monkeypatch.setattr(Leg, "take", lie)
    with pytest.raises(LinkLost):
        world.finish(asker(a).request("of b", b"2"))
    refused = [*a.told(Event.LINK_LOST), *b.told(Event.LINK_LOST)]
    assert any("checksum does not match" in event.detail for event in refused)
    assert {"c"} == set(a.engine.sessions) == set(b.engine.sessions)
    assert not c.told(Event.LINK_LOST)
    assert world.finish(asker(a).request("of b", b"3")).answer == b"3"


def test_a_stopped_end_does_not_fill_the_relay() -> None:
    world = World()
    config = EngineConfig(tunnel_window_bytes=64 * 1024)
    a, b, c = blocked(world, "a", "b", "c", config=config)
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    b.pause()
    asked = [asker(a).request("of b", bytes(60_000)) for _ in range(100)]
    held = 0

    def look(node: Node) -> None:
        nonlocal held
        tunnels = c.control.tunnels
        legs = [*tunnels._mine.values(), *(leg for legs in tunnels._theirs.values() for leg in legs.values())]
        held = max(held, sum(len(leg.waits) for leg in legs))

    world.each_step(look)
    world.run(1_000)
    assert 0 < held <= 64 * 1024
    b.unpause()
    world.until(lambda: all(each.done for each in asked))
    assert all(each.error is None for each in asked)


# -- frames by hand


def guests(world: World, config: EngineConfig | None = None) -> tuple[Node, Stranger, Stranger]:
    """A node, and two that are linked with it and speak by hand."""
    node = world.node("m", config=config)
    node.control.found(UUID)
    one, two = Stranger(world, node, name="a"), Stranger(world, node, name="z")
    for stranger in (one, two):
        stranger.introduce()
    return node, one, two


def said(stranger: Stranger) -> list[list[object]]:
    return [unpack("TUNNEL", body) for body in stranger.bodies(TUNNEL)]


def opened(world: World, window: int = 1000) -> tuple[Node, Stranger, Stranger]:
    """A tunnel from the one to the other: number 0 at the one, 0 at the other."""
    node, one, two = guests(world, EngineConfig(tunnel_window_bytes=1000))
    one.say(TUNNEL, pack([OPEN, 0, "a", "z", window]))
    world.until(lambda: any(two.bodies(TUNNEL)))
    assert said(two) == [[OPEN, 0, "a", "z", min(window, 1000)]]
    two.say(TUNNEL, pack([OPENED, 0, 2000]))
    world.until(lambda: any(one.bodies(TUNNEL)))
    assert said(one) == [[OPENED, 0, 1000]]
    return node, one, two


def test_frames_of_a_tunnel_pass_through_and_both_ends_end_it() -> None:
    world = World()
    node, one, two = opened(world)
    one.say(CARRY, pack([0, b"there"]))
    two.say(CARRY, pack([0, b"back"]))
    world.run(50)
    assert [unpack("CARRY", body) for body in two.bodies(CARRY)] == [[0, b"there"]]
    assert [unpack("CARRY", body) for body in one.bodies(CARRY)] == [[0, b"back"]]
    two.say(TUNNEL, pack([TAKEN, 0, 5]))
    for stranger in (one, two):  # the links' own credit
        taken = sum(len(body) + 10 for body in stranger.bodies(CARRY))
        stranger.say(CREDIT, pack([taken, 0]))
    world.run(50)
    assert said(one)[1:] == [[TAKEN, 0, 5]]
    one.say(CARRY, pack([0, b""]))
    world.run(50)
    assert node.stats["tunnels_relayed"] == 1
    two.say(CARRY, pack([0, b""]))
    world.run(50)
    assert node.stats["tunnels_relayed"] == 0
    assert [unpack("CARRY", body)[1] for body in two.bodies(CARRY)] == [b"there", b""]
    for stranger in (one, two):  # of one that has ended
        stranger.say(CARRY, pack([0, b"late"]))
        stranger.say(TUNNEL, pack([TAKEN, 0, 10**9]))
        stranger.say(TUNNEL, pack([END, 0, 301, "late"]))
    world.run(50)
    assert one.close is two.close is None


def test_the_window_is_full_at_its_last_byte_and_one_more_ends_the_link() -> None:
    world = World()
    node, one, two = opened(world)
    one.say(CARRY, pack([0, bytes(1000)]))
    world.run(50)
    assert one.close is None
    two.say(TUNNEL, pack([TAKEN, 0, 600]))
    world.run(50)
    one.say(CARRY, pack([0, bytes(600)]))
    world.run(50)
    assert one.close is None
    one.say(CARRY, pack([0, b"x"]))
    world.run(50)
    assert one.close is not None
    assert "1001 bytes at once, expected at most 1000 (tunnel_window_bytes)" in one.close.text
    assert two.close is None
    assert said(two)[-1][:2] == [END, 0]
    assert node.stats["tunnels_relayed"] == 0


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (TUNNEL, [], "3 to 5"),
        (TUNNEL, [OPENED, 0], "3 to 5"),
        (TUNNEL, [TAKEN, 0, 1, 2], "3 values for verb 2"),
        (TUNNEL, [9, 0, 0], "TUNNEL verb"),
        (TUNNEL, [OPENED, -1, 0], "TUNNEL number"),
        (TUNNEL, [OPENED, 0, 500], "open already"),
        (TUNNEL, [OPENED, 7, 500], "there never was a tunnel 7"),
        (TUNNEL, [TAKEN, 0, 1], "expected 0 to 0 bytes"),
        (TUNNEL, [TAKEN, 0, "1"], "TUNNEL value"),
        (TUNNEL, [END, 0, 301, b"why"], "TUNNEL text"),
        (TUNNEL, [END, 0, 301, "w" * 513], "TUNNEL text"),
        (TUNNEL, [END, 2, 301, "no such"], "there never was a tunnel 2"),
        (TUNNEL, [OPEN, 2, "a", "no name!", 9], "TUNNEL node"),
        (TUNNEL, [OPEN, 2, "a", "z", 0], "TUNNEL window"),
        (TUNNEL, [OPEN, 0, "a", "z", 9], "is not the next"),
        (TUNNEL, [OPEN, 3, "a", "z", 9], "is not the next"),
        (CARRY, [0], "expected [number, bytes]"),
        (CARRY, [0, "text"], "expected [number, bytes]"),
        (CARRY, [4, b"x"], "there never was a tunnel 4"),
        (CARRY, [1, b"x"], "there never was a tunnel 1"),
    ],
)
def test_garbage_ends_the_link_that_it_came_on(kind: int, body: list[object], text: str) -> None:
    world = World()
    _, one, two = opened(world)
    one.say(kind, pack(body))
    world.run(50)
    assert one.close is not None
    assert text in one.close.text
    assert two.close is None
    assert said(two)[-1][:2] == [END, 0]


def test_no_second_hop_and_no_tunnel_to_who_is_not_linked() -> None:
    world = World()
    node, one, two = guests(world)
    asked = [("a", "nobody"), ("a", "a"), ("other", "z"), ("m", "m")]
    for number, (source, target) in enumerate(asked):
        one.say(TUNNEL, pack([OPEN, 2 * number, source, target, 1000]))
    world.run(50)
    texts = [str(text) for verb, _, _, text in said(one) if verb == END]
    assert [text.split(" ", 2)[2] for text in texts] == [
        "is not linked with node nobody",
        "is not linked with node a",
        "carries for who asks alone: node a asks for node other",
        "is the source itself",
    ]
    assert not said(two)
    assert node.stats["tunnels_refused"] == 4
    assert one.close is None


def test_a_tunnel_of_a_tunnel_is_refused() -> None:
    world = World()
    a, b, c, d = blocked(world, "a", "b", "c", "d")
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    session = a.engine.sessions["b"]
    assert session.relay
    a.control.tunnels._next = 1001
    a.engine.put_control(session, TUNNEL, pack([OPEN, 1000, "a", "d", 1000]))
    world.run(50)
    assert b.stats["tunnels_refused"] == 1
    assert not d.stats["tunnels"]
    assert a.engine.sessions["b"] is session
    assert c is not d


def test_a_target_that_does_not_answer_is_given_up() -> None:
    world = World()
    node, one, two = guests(world)
    one.say(TUNNEL, pack([OPEN, 0, "a", "z", 1000]))
    world.until(lambda: any(two.bodies(TUNNEL)))
    for _ in range(12):
        world.run(500)
        for stranger in (one, two):
            stranger.say(3, pack(7))  # PING
    assert node.stats["tunnels_relayed"] == 0
    assert said(one)[-1][:2] == said(two)[-1][:2] == [END, 0]
    two.say(TUNNEL, pack([OPENED, 0, 1000]))  # late: nobody waits for it
    world.run(50)
    assert said(two)[-1][:2] == [END, 0]
    assert one.close is two.close is None


def test_a_node_without_an_address_is_reached_through_those_that_it_has_dialled() -> None:
    world = World()
    a, b, c = world.node("a"), world.node("b"), world.node("c")
    for node in (a, b):
        node.control.set_addresses(())
    c.control.found(UUID)
    for node in (a, b):
        world.finish(node.join("c"))
        node.agent(f"of {node.name}", echo)
    world.until(lambda: all(len(node.control.directory.agents()) == 2 for node in (a, b)))
    assert world.finish(asker(a).request("of b", b"1")).answer == b"1"
    assert world.finish(asker(b).request("of a", b"2")).answer == b"2"
    assert relay(a, "b") == relay(b, "a") == "c"


def test_a_relay_that_is_far_is_dialled_for_it() -> None:
    world = World()
    config = EngineConfig(mesh_nodes_max=2, overlay_rings=2, data_idle_ms=1_000)
    nodes = [world.node(f"n{number}", config=config) for number in range(16)]
    nodes[0].control.found(UUID)
    for node in nodes[1:]:
        world.finish(node.join("n0"))
    world.until(lambda: all(len(node.control.membership) == 16 for node in nodes))
    for node in nodes:
        node.agent(f"of {node.name}", echo)
    world.run(10_000)
    one, other = far(nodes)
    world.block(one.name, other.name)
    world.block(other.name, one.name)
    assert world.finish(asker(one).request(f"of {other.name}", b"1")).answer == b"1"
    through = relay(one, other.name)
    assert through
    assert one.control.membership.keeps_link(through) is False
    assert sum(node.stats["tunnels_opened"] for node in nodes) == 1
    # The link to the relay is kept for what it carries, and goes with it.
    for _ in range(8):
        world.run(400)
        assert world.finish(asker(one).request(f"of {other.name}", b"2")).answer == b"2"
        assert relay(one, other.name) == through
    world.until(lambda: not any(node.stats["tunnels"] for node in nodes))
    world.until(lambda: through not in one.engine.sessions)


def far(nodes: list[Node]) -> tuple[Node, Node]:
    """Two that are not linked, nor with any node in between."""
    for one in nodes:
        for other in nodes:
            near = {one.name, *one.engine.sessions}
            if one is not other and not near & {other.name, *other.engine.sessions}:
                return one, other
    raise AssertionError("all are near")


def test_what_a_relay_sends_itself_and_what_it_carries_get_a_fair_share_each() -> None:
    world = World()
    a, b, c = blocked(world, "a", "b", "c")
    sink = b.agent("sink", lambda _: b"")
    assert world.finish(asker(a).request("sink", b"1")).answer == b""
    world.network.weathers["c", "b"] = Weather(delay_ns=(10 * MS, 10 * MS))  # where they meet is what is slow
    large = bytes(400_000)
    asked = {node.name: [asker(node).request("sink", large) for _ in range(30)] for node in (a, c)}
    world.until(lambda: any(all(each.done for each in tokens) for tokens in asked.values()))
    done = sorted(sum(each.done for each in tokens) for tokens in asked.values())
    assert done[0] >= 8, done
    world.until(lambda: all(each.done for tokens in asked.values() for each in tokens))
    assert not any(each.error for tokens in asked.values() for each in tokens)
    assert len(sink.received) == 61
