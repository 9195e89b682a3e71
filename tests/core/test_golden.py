"""The wire of this release, frame by frame, in golden/protocol-1.txt: what it says, and what it must read.

A change there is a change of the protocol: nodes of the last release must still understand it.
``python tests/core/test_golden.py`` writes the file anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from apart import keep_only
from harness import (
    AGENTS,
    CANCEL,
    CARRY,
    CLOSE,
    CONFIRM,
    CREDIT,
    DIGEST,
    DONE,
    GRANT,
    HELLO,
    MEMBERS,
    MESSAGE,
    OPTIONAL_FIELDS,
    PING,
    PROBE,
    PULL,
    RETIRE,
    RETURN,
    STAY,
    TAKE,
    TUNNEL,
    UUID,
    VOUCH,
    WELCOME,
    Node,
    World,
    address_of,
)
from strangers import Pen, Stranger, frame

from agentnet_core import gossip, parts
from agentnet_core import pruning as pruning_room
from agentnet_core.agent_record import AgentRecord
from agentnet_core.body import pack
from agentnet_core.broadcasts import KINDS as TREE
from agentnet_core.config import EngineConfig
from agentnet_core.crdt import GCounter, LWWMap, ORSet, Site
from agentnet_core.dots import CausalContext
from agentnet_core.framing import KINDS, Arena, Decoder, check_msgpack
from agentnet_core.handshake import FEATURE_DELIVERY, Close, Hello, Welcome
from agentnet_core.listing import (
    Capabilities,
    Confirm,
    read_pull,
    read_update,
    write_change,
    write_pulls,
    write_whole,
)
from agentnet_core.member_record import NodeRecord
from agentnet_core.message import AgentMessage
from agentnet_core.parts import STATE, STATE_CHUNK
from agentnet_core.records import Delivery, agent_id_of
from agentnet_core.roster import (
    DIGEST_BYTES,
    Vouch,
    decode_digest,
    decode_members,
    decode_probe,
    encode_digest,
    encode_members,
    encode_probe,
)
from agentnet_core.signing import BROADCAST, Seal
from agentnet_core.states import SHARES, Key
from agentnet_core.tunnels import OPEN, OPENED, TAKEN

NOTHING = msgpack.packb([])
FILE = Path(__file__).parent / "golden" / "protocol-1.txt"
THERE = agent_id_of("there")


def spoken() -> list[str]:
    """What a node says in a life that has every kind of frame in it, one line for each, in a fixed order."""
    world = World()
    config = EngineConfig(
        mailbox_messages_max=4,
        fragment_bytes=256,
        bulk_window_bytes=4096,
        link_silence_ms_max=2_000,
        data_idle_ms=6_000,
    )
    node = world.node("m", config=config)
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    (body,) = write_whole("a", 1, 1, [AgentRecord(THERE, "a", "there", ("c",), {"k": "v"})], 4096)
    stranger.say(AGENTS, body)
    sink = node.make("sink", capabilities=["read", "write"])
    spare = node.make(77)
    node.register(sink, spare)
    node.control.catalogue.report_health(sink, "quota gone")
    world.run(1)
    stranger.say(CONFIRM, Confirm("m", 1, 1).encode())
    stranger.say(PING, msgpack.packb(7))
    stranger.say(MEMBERS, encode_members([NodeRecord("a", 1, (address_of("a"),), listed=2)])[0])
    stranger.say(PULL, write_pulls([("m", 1, 0)])[0])
    node.unregister(spare)
    world.run(50)
    assert stranger.close is None, stranger.close
    node.engine.ping(node.link("a").session)
    sink.send("there", b"plain")
    sink.send(THERE, b"with an id", message_id="Zug 7", priority=3, message_type=4)
    sink.send(THERE, b"urgent", ttl=1.5)
    sink.request(THERE, b"asked", timeout=1e9)
    sink.send(THERE, bytes(range(256)) * 2)
    node.engine.broadcast(AgentMessage(b"all", message_type=5), sink.agent_id)
    world.run(50)
    for _ in range(2):  # for the next fragment, and for what waits behind it
        heard = list(stranger.bodies(MESSAGE))
        stranger.say(CREDIT, msgpack.packb([sum(len(body) + 10 for body in heard), len(heard) - 1]))
        world.run(50)
    for seq in range(1, 5):  # full: STOP
        stranger.say(MESSAGE, msgpack.packb([THERE, sink.agent_id, seq, 0, 1, 1, 0, 0, b"x"]))
    stranger.say(MESSAGE, msgpack.packb([THERE, 12345, 5, 0, 1, 1, 0, 0, b"to nobody"]))
    stranger.say(MESSAGE, msgpack.packb([THERE, sink.agent_id, 6, 9, 2, 1, 0, 0, b"a question"]))
    world.run(50)
    for message in sink.take_all():  # empty: GO
        node.engine.reply(message, b"an answer")
        node.engine.reply(message, b"\xa1v", 1)
        node.engine.reply(message, b"", 0, (301, "it failed"))
    stranger.say(PROBE, encode_probe("nobody"))
    stranger.say(DIGEST, encode_digest(bytes(DIGEST_BYTES), False))
    silent = Stranger(world, node, name="b")
    silent.introduce()
    for _ in range(4):
        world.run(550)
        stranger.say(PING, msgpack.packb(7))
    node.engine.set_maintenance(True)
    stranger.say(RETIRE, NOTHING)
    unused = let_go(world, node)
    node.control.leave()
    world.run(50)
    said = [it for it in unused.heard if it[0] in (RETIRE, CLOSE)]
    said += [*stranger.heard, *((kind, 0, body) for kind, body in map(gossip.encode, on_the_tree()))]
    said += [it for it in in_groups() if it[0] in (AGENTS, MESSAGE)]
    said += [it for it in delivered() if it[0] in (HELLO, MESSAGE, DONE, RETURN)]
    said += [*of_states(), *of_rounds(), *called(), *given()]
    said += [it for it in through_a_relay() if it[0] in (TUNNEL, CARRY)]
    said += [it for it in signed() if it[0] in (HELLO, MEMBERS, AGENTS, CLOSE, gossip.GOSSIP)]
    lines = [f"{KINDS[kind]} {flags} {body.hex()}" for kind, flags, body in said]
    return sorted(set(lines))


def on_the_tree() -> list[gossip.Frame]:
    """What it takes a network to say: a tree that is broken and mended."""
    ids = (gossip.pack_id("m", 1, 7), gossip.pack_id("a", 2, 300))
    first = gossip.Gossip(ids[0], 2, 1500, True, b"\x01all")
    message = AgentMessage(b"to all", from_agent=7, message_type=5, ttl=2, message_id="7")
    users = gossip.Gossip(ids[1], 1, 0, False, bytes((gossip.MESSAGES,)) + message.encode())
    return [first, users, gossip.Ihave(ids), gossip.Graft(ids), gossip.Prune(), gossip.Gone(ids)]


def in_groups() -> list[tuple[int, int, bytes]]:
    """An agent that is in groups, and sends to one."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    (body,) = write_whole("a", 1, 1, [AgentRecord(THERE, "a", "there", groups=("readers",))], 4096)
    stranger.say(AGENTS, body)
    sink = node.make("sink", capabilities=["read"], groups=["g", "readers"])
    node.register(sink)
    node.control.catalogue.report_health(sink, "quota gone")
    world.run(50)
    node.engine.broadcast(AgentMessage(b"to some", message_type=5, group="readers"), sink.agent_id)
    world.run(50)
    assert stranger.close is None, stranger.close
    return stranger.heard


def of_states() -> list[tuple[int, int, bytes]]:
    """States that are changed, compared, read, and too large for one frame."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce()
    replication = node.control.replication
    theirs = ORSet(Site("a:1", bytes(16)))
    theirs.add("of a")
    key, large = Key(theirs.type_code, "s"), Key(LWWMap(Site("a:1", bytes(16))).type_code, "m")
    held = replication.hold(ORSet, "s")
    held.state.add("of m")  # type: ignore[attr-defined]
    replication.changed(held)
    replication.quorums.admit()
    replication.wait(held, 2, ("a", "m"), None)
    world.run(50)
    for _ in range(2):  # the second is forged
        stranger.say(STATE, parts.write(parts.DELTA, 7, [(key, theirs.delta.encode())]))
        theirs = ORSet(Site("b:1", bytes(16)))
        theirs.add("of b")
    stranger.say(STATE, parts.write_sums([0] * SHARES, fresh=True))
    empty = CausalContext().encode()
    stranger.say(STATE, parts.write(parts.CONTEXT, key, empty, 1, True))
    stranger.say(STATE, parts.write(parts.CONTEXT, key, CausalContext({"c:1": 3}).encode(), 1, True))
    stranger.say(STATE, parts.write(parts.FETCH, key, CausalContext({"m:1": 1}).encode()))
    stranger.say(STATE, parts.write(parts.READ, 9, key, 1))
    stranger.say(STATE, parts.write(parts.RANGES, key, [("m:1", 0, 1, 5), ("a:1", 0, 32, 5)]))
    both = CausalContext({"a:1": 1, "m:1": 1})
    stranger.say(STATE, parts.write(parts.LIVE, key, both.encode(), CausalContext({"a:1": 1}).encode()))
    stranger.say(STATE, parts.write(parts.KEEP, 8, []))
    held = replication.hold(LWWMap, "m")
    for number in range(5):
        held.state.set(number, bytes(3000 * number * number), number + 1)  # type: ignore[attr-defined]
    replication.changed(held)
    world.run(50)
    held = replication.hold(ORSet, "s")
    held.state.discard("of a")  # type: ignore[attr-defined]
    replication.quorums.admit()
    replication.changed(held)
    replication.wait(held, 2, ("a", "m"), None, on_disk=True)
    held = replication.hold(LWWMap, "m")
    world.run(50)
    stranger.say(STATE, parts.write(parts.MORE, 1, 1, 1))
    stranger.say(STATE, parts.write(parts.CONTEXT, large, held.state.context.encode(), 1, True))
    replication.quorums.admit()
    replication.read(held, 2, ("a", "m"), None)
    world.run(50)
    stranger.say(STATE_CHUNK, parts.write_chunk(1, 0, 60_000, b"x"))
    world.run(50)
    held = replication.hold(ORSet, "s")
    replication.quorums.admit()
    replication.read(held, 2, replication.replicas(key), None, chosen=True)
    world.run(50)
    stranger.say(STATE, parts.write(parts.VIEWS, 5, bytes(8 * SHARES), False, [], [("c", 1, 70)]))
    stranger.say(STATE, parts.write(parts.ASK, 5, parts.write(parts.READ, 10, key, 1)))
    world.run(50)
    assert stranger.close is None, stranger.close
    said = [it for it in stranger.heard if it[0] == STATE and len(it[2]) < 4096]
    return [*said, (STATE_CHUNK, 0, parts.write_chunk(1, 49_088, 49_096, b"the rest"))]


def of_rounds() -> list[tuple[int, int, bytes]]:
    """What nodes say of pruning, when one of them is gone."""
    config = EngineConfig(state_pruning=True, state_prune_after_ms=500, state_rounds_max=1)
    world = World(5)
    nodes = world.join(*"abc", config=config)
    said: list[tuple[int, int, bytes]] = []
    for node in nodes:
        pruning = node.control.replication.pruning
        say = pruning._say

        def keep(node_id: str, body: bytes, say: Any = say) -> None:
            said.append((pruning_room.ROUND, 0, body))
            say(node_id, body)

        pruning._say = pruning.deciding._say = keep  # type: ignore[method-assign]
    for name in "ds":
        held = nodes[2].control.replication.hold(GCounter if name == "d" else ORSet, name)
        held.state.increment() if name == "d" else held.state.add(1)
        nodes[2].engine.now_ns = nodes[2].clock.now_ns
        nodes[2].control.replication.changed(held)
    world.run(1000)
    nodes[2].leave()
    world.run(5_000)
    late = world.node("late", config=config)
    world.finish(late.join("a"))
    assert all(node.control.replication.pruning.rounds for node in nodes[:2])
    return [*said, (pruning_room.ROUND, 0, pack([pruning_room.WANT]))]


def through_a_relay() -> list[tuple[int, int, bytes]]:
    """What a node says that carries a tunnel, and refuses another."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    source, target = Stranger(world, node, name="a"), Stranger(world, node, name="z")
    for stranger in (source, target):
        stranger.introduce()
    source.say(TUNNEL, msgpack.packb([OPEN, 0, "a", "z", 1000]))
    source.say(TUNNEL, msgpack.packb([OPEN, 2, "a", "nobody", 1000]))
    world.run(50)
    target.say(TUNNEL, msgpack.packb([OPENED, 0, 2000]))
    world.run(50)
    source.say(CARRY, msgpack.packb([0, b"bytes"]))
    world.run(50)
    target.say(TUNNEL, msgpack.packb([TAKEN, 0, 5]))
    source.say(CARRY, msgpack.packb([0, b""]))
    world.run(50)
    assert source.close is target.close is None
    return [*source.heard, *target.heard]


def called() -> list[tuple[int, int, bytes]]:
    """Requests with a deadline, one of them made by a handler, and one that is given up."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce(features_optional=FEATURE_DELIVERY)
    (body,) = write_whole("a", 1, 1, [AgentRecord(THERE, "a", "there")], 4096)
    stranger.say(AGENTS, body)
    worker = node.make("worker", lambda message: worker.request("there", b"on behalf"))
    node.register(worker)
    world.run(50)
    worker.request(THERE, b"given up", timeout=7).cancel()
    chain = {3: 9, 4: [1000, [THERE, 5]]}
    for seq, fields in enumerate([b"", msgpack.packb(chain)], 1):
        head = msgpack.packb([THERE, worker.agent_id, seq, seq, 2, 1, 2500, 0, b"a question"])
        stranger.say(MESSAGE, head + fields, OPTIONAL_FIELDS if fields else 0)
        world.run(50)
    teller = node.make("teller", lambda message: b"whole")
    node.register(teller)
    reader = node.engine.stream(worker, THERE, b"in parts", None)
    head = msgpack.packb([THERE, teller.agent_id, 3, 3, 2, 1, 0, 0, b"a question"])
    stranger.say(MESSAGE, head + msgpack.packb({13: [1, 4]}), OPTIONAL_FIELDS)
    world.run(50)
    head = msgpack.packb([THERE, worker.agent_id, 4, reader.correlation, 3, 1, 0, 0, b"all"])
    stranger.say(MESSAGE, head + msgpack.packb({13: [20, 0]}), OPTIONAL_FIELDS)
    world.run(50)
    assert reader.over
    assert stranger.close is None, stranger.close
    return [it for it in stranger.heard if it[0] in (MESSAGE, CANCEL, GRANT)]


def given() -> list[tuple[int, int, bytes]]:
    """A request with an input in parts, and one whose input is read."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    stranger = Stranger(world, node, name="a")
    stranger.introduce(features_optional=FEATURE_DELIVERY)
    (body,) = write_whole("a", 1, 1, [AgentRecord(THERE, "a", "there")], 4096)
    stranger.say(AGENTS, body)
    worker = node.make("worker")
    node.register(worker)
    world.run(50)
    reader = node.engine.stream(worker, THERE, b"a question", None, gives=True)
    assert reader.giver is not None
    reader.giver.put(b"some")
    reader.giver.put(b"", 0, True)
    world.run(50)
    stranger.say(TAKE, msgpack.packb([reader.correlation, 0, 4]))
    head = msgpack.packb([THERE, worker.agent_id, 1, 3, 2, 1, 0, 0, b"a question"])
    stranger.say(MESSAGE, head + msgpack.packb({13: [3, 4]}), OPTIONAL_FIELDS)
    world.run(50)
    taken = worker.take()
    assert taken is not None
    node.engine.open_input(taken)
    ((_, taker),) = node.engine.takers.items()
    taker.wait()
    node.turn()
    world.run(50)
    assert stranger.close is None, stranger.close
    return [it for it in stranger.heard if it[0] in (MESSAGE, TAKE)]


def signed() -> list[tuple[int, int, bytes]]:
    """A network whose nodes sign: one that another leaves, and that leaves."""
    world = World(secure=True)
    node = world.node("m")
    node.control.found(UUID)
    stranger, pen = Stranger(world, node, name="a"), Pen(world, "a")
    stranger.introduce()
    stranger.say(MEMBERS, encode_members([pen.record(), Pen(world, "gone").record()])[0])
    world.run(50)
    stranger.say(MEMBERS, encode_members([Pen(world, "gone").farewell()])[0])
    node.register(node.make("sink", capabilities=["read"]))
    world.run(50)
    listener = Stranger(world, node, name="b")
    listener.introduce()
    stranger.say(PULL, write_pulls([("m", 1, 0)])[0])
    world.run(50)
    node.control.leave()
    world.run(50)
    assert stranger.close is not None
    assert stranger.close.signature
    seal = Seal(pen.sign(BROADCAST, "a", 1, 7, bytes(32)), pen.key.certificate)
    first = gossip.Gossip(gossip.pack_id("a", 1, 7), 1, 0, False, b"\x01all", seal)
    kind, body = gossip.encode(first)
    return [*stranger.heard, *listener.heard, (kind, 0, body)]


def delivered() -> list[tuple[int, int, bytes]]:
    """A node that is promised something, and promises."""
    world = World()
    node = world.node("m")
    node.control.found(UUID)
    sink = node.agent("sink", lambda _: None)
    stranger = Stranger(world, node, name="a")
    stranger.introduce(features_optional=FEATURE_DELIVERY)
    (body,) = write_whole("a", 1, 1, [AgentRecord(THERE, "a", "there")], 4096)
    stranger.say(AGENTS, body)
    world.run(50)
    sink.send("there", b"told", delivery=Delivery.ACKNOWLEDGED, until="mailboxed")
    sink.send("there", b"kept", delivery=Delivery.DURABLE, message_id="7")
    letter = [THERE, sink.agent_id, 1, 3, 1, 1, 0, 0, b"x"]
    stranger.say(MESSAGE, msgpack.packb(letter) + msgpack.packb({5: [13, 1, 7, 0]}), 1)
    letter[3] = 5
    stranger.say(MESSAGE, msgpack.packb(letter) + msgpack.packb({5: [9, 1, 7, 4]}), 1)
    letter[1] = 12345
    stranger.say(MESSAGE, msgpack.packb(letter) + msgpack.packb({5: [10, 1, 7, 0]}), 1)
    world.run(50)
    stranger.say(MESSAGE, msgpack.packb(letter) + msgpack.packb({5: [10, 2, 7, 0]}), 1)
    letter[1] = sink.agent_id
    stranger.say(MESSAGE, msgpack.packb(letter) + msgpack.packb({5: [9, 2, 7, 4]}), 1)
    world.run(50)
    sink.send("there", b"once", delivery=Delivery.ACKNOWLEDGED, operation_id="pay 7")
    sink.request("there", b"once", timeout=7, operation_id="pay 8")
    world.run(50)
    assert stranger.close is None, stranger.close
    return stranger.heard


def let_go(world: World, node: Node) -> Stranger:
    """A peer that is no neighbour: its link is kept when it asks for that, and given up when it says so."""
    keep_only(node, "a", "b")
    unused = Stranger(world, node, name="c")
    unused.introduce()
    world.until(lambda: any(unused.bodies(RETIRE)), ms=1_500)
    unused.say(STAY, NOTHING)
    world.run(50)
    unused.say(RETIRE, NOTHING)
    world.run(50)
    return unused


def golden() -> list[tuple[int, int, bytes]]:
    numbers = {name: number for number, name in KINDS.items()}
    lines = [line.split(" ") for line in FILE.read_text().splitlines()]
    return [(numbers[name], int(flags), bytes.fromhex(body)) for name, flags, body in lines]


def test_every_kind_is_there() -> None:
    assert {KINDS[kind] for kind, _, _ in golden()} == set(KINDS.values())


def test_a_node_says_what_it_said() -> None:
    assert spoken() == FILE.read_text().splitlines()


@pytest.mark.parametrize("number", range(len(golden()) if FILE.exists() else 0))
def test_what_was_said_is_read(number: int) -> None:
    """By our own reader, to the same bytes again where it has a writer; and by the msgpack library."""
    kind, flags, body = golden()[number]
    assert Decoder(Arena(1 << 17), True).feed(frame(kind, body, flags)) == [(kind, flags, body)]
    check_msgpack(body, values_max=2 if flags else 1)
    if kind == HELLO:
        assert Hello.decode(body).encode() == body
    elif kind == WELCOME:
        assert Welcome.decode(body).encode() == body
    elif kind == CLOSE:
        assert Close.decode(body).encode() == body
    elif kind == MEMBERS:
        assert encode_members(decode_members(body)) == [body]
    elif kind == PROBE:
        assert encode_probe(decode_probe(body)) == body
    elif kind == VOUCH:
        assert Vouch.decode(body).encode() == body
    elif kind == DIGEST:
        assert encode_digest(*decode_digest(body)) == body
    elif kind == CONFIRM:
        assert Confirm.decode(body).encode() == body
    elif kind == AGENTS:
        update = read_update(body, Capabilities())
        assert update.last
        head = update.owner, update.incarnation
        whole = write_whole(*head, update.version, update.records, 4096, update.head)
        changed = update.base, update.records, update.removals, 4096, lambda version, part: update.head
        assert body in whole + write_change(*head, *changed)
    elif kind in TREE:
        assert gossip.encode(gossip.decode(kind, body)) == (kind, body)
    elif kind == PULL:
        assert write_pulls(read_pull(body)) == [body]
    elif kind == MESSAGE:
        assert AgentMessage.decode(body).encode() == body or b"\x0c\x92\xce" in body  # a fragment is a part
    elif kind == STATE:
        verb, said = parts.read(body)
        said = [
            parts.pack_sums(it) if check is parts._sums else it
            for check, it in zip(parts.READERS[verb], said, strict=True)
        ]
        assert parts.write(verb, *said) == body
    elif kind == STATE_CHUNK:
        assert parts.write_chunk(*parts.read_chunk(body)) == body
    elif kind in (RETIRE, STAY):
        assert body == NOTHING
    elif kind == CREDIT:
        taken, messages = msgpack.unpackb(body)
        assert 0 < messages < taken
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(body)
    assert len(list(unpacker)) == (2 if flags else 1)


if __name__ == "__main__":
    FILE.write_text("\n".join(spoken()) + "\n")
