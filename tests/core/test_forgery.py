"""A node of a signed network that lies about others: nothing that they did not sign is taken, and all see who
told it.  The liar has a key and a certificate of its own, and has heard all that goes round."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import pytest
from harness import AGENTS, CLOSE, DIGEST, MEMBERS, UUID, Node, World, address_of
from strangers import Pen, Stranger

from agentnet.sim.scenarios import calm, storm
from agentnet_core.agent_record import AgentRecord
from agentnet_core.config import EngineConfig
from agentnet_core.errors import AgentUnreachable, Forged
from agentnet_core.gossip import MESSAGES, Gossip, encode, pack_id
from agentnet_core.handshake import Close
from agentnet_core.listing import write_change, write_reminder, write_whole
from agentnet_core.lookups import Place, read_where, write_there
from agentnet_core.member_record import NodeRecord, Standing
from agentnet_core.message import AgentMessage
from agentnet_core.records import Event
from agentnet_core.roster import DIGEST_BYTES, decode_members, encode_digest, encode_members
from agentnet_core.signing import BROADCAST, Head, Seal

WHERE, THERE = 20, 21
ELSEWHERE = ("sim://elsewhere:1",)
OTHER_UUID = bytes(16)


class Scene:
    """Node ``m``, which is told; ``a``, linked to it, with two agents; ``far``, of which it has heard, whose
    list it holds; and the liar ``r``."""

    def __init__(self, **limits: int) -> None:
        self.world = World(secure=True)
        self.m = self.world.node("m", config=EngineConfig(**limits))
        self.m.control.found(UUID)
        self.a = self.world.node("a")
        self.world.finish(self.a.join("m"))
        self.a.agent("reader", capabilities=["read"])
        self.a.agent("writer", capabilities=["write"])
        self.r = Stranger(self.world, self.m, name="r")
        self.r.introduce()
        self.tell(self.pen("r").record())
        self.far = self.pen("far")
        self.agent = AgentRecord(9, "far", None, ("see",))
        self.tell(self.far.record(listed=1, head=self.far.head(1, self.agent)))
        self.list_as(1, self.agent)
        assert self.m.control.directory.get(9) is not None, "the honest word of a relay is taken"
        assert self.refused == 0
        self.m.events.clear()
        self.before = self.view()

    def pen(self, name: str, *, uuid: bytes = UUID, key: str = "") -> Pen:
        return Pen(self.world, name, uuid=uuid, key=key)

    def tell(self, *records: NodeRecord) -> None:
        """The liar says this of nodes."""
        for body in encode_members(records):
            self.r.say(MEMBERS, body)
        self.world.run(20)

    def list_as(self, version: int, *agents: AgentRecord, head: Head | None = None) -> None:
        """The liar brings a list of ``far``."""
        head = head or self.far.head(version, *agents)
        for body in write_whole("far", 1, version, agents, 4096, head):
            self.r.say(AGENTS, body)
        self.world.run(20)

    @property
    def refused(self) -> int:
        return self.m.control.stats()["records_refused"]

    def view(self) -> object:
        """All that the node holds of others."""
        directory = self.m.control.directory
        agents = [(r.agent_id, r.node_id, r.name, r.capabilities, r.metadata) for r in directory.agents()]
        members = [(m.node_id, m.incarnation, m.addresses) for m in self.m.control.members()]
        return self.m.control.membership.records(), members, agents, directory.held("far")

    def check_refused(self, owner: str, times: int = 1) -> None:
        """So often, and nothing has come of it but that it is known who told it."""
        assert self.refused == times
        told = self.m.told(Event.FORGED)
        assert [event.node_id for event in told] == ["r"] * times
        assert all(f"node {owner}" in event.detail and isinstance(event.error, Forged) for event in told)
        assert [event for event in self.m.events if event.kind != Event.FORGED] == []
        assert self.view() == self.before
        assert not self.r.session.closed, "the link's other traffic goes on"
        assert not self.a.dead
        assert self.a.control.membership.version == 0, "it had nothing to refute"


FORGED: dict[str, Callable[[Scene, Pen], NodeRecord]] = {
    "a higher incarnation": lambda s, pen: pen.record().replace(incarnation=2),
    "a higher version": lambda s, pen: pen.record().replace(version=1),
    "other addresses": lambda s, pen: pen.record(version=1).replace(addresses=ELSEWHERE),
    "signed by itself": lambda s, pen: s.pen(pen.name, key="r").record(incarnation=2),
    "in another network": lambda s, pen: s.pen(pen.name, uuid=OTHER_UUID).record(incarnation=2),
    "without a signature": lambda s, pen: pen.record(incarnation=2).replace(seal=None),
    "with another's certificate": lambda s, pen: pen.record(incarnation=2).replace(
        seal=Seal(pen.record(incarnation=2).seal.signature, s.pen("r").key.certificate),
    ),
    "a leave": lambda s, pen: pen.record().replace(standing=Standing.LEFT),
    "a leave of another life": lambda s, pen: pen.farewell(7).replace(incarnation=1),
    "a leave without a signature": lambda s, pen: pen.farewell().replace(seal=None),
    "a list that it has not": lambda s, pen: pen.record(listed=5),
    "a list of another version": lambda s, pen: pen.record(listed=5, head=pen.head(4)),
    "a list that another signed": lambda s, pen: pen.record(listed=5, head=s.pen("r").head(5)),
}


@pytest.mark.parametrize("about", ["a", "far"])
@pytest.mark.parametrize("how", FORGED)
def test_what_a_node_did_not_sign_is_not_taken(how: str, about: str) -> None:
    """Of a node that is linked, and of one that is known from others alone."""
    scene = Scene()
    scene.tell(FORGED[how](scene, scene.pen(about)))
    scene.check_refused(about)


@pytest.mark.parametrize(
    "how", [how for how in FORGED if how not in ("a higher version", "a list of another version")]
)
def test_nor_of_a_node_that_nobody_knows(how: str) -> None:
    scene = Scene()
    scene.tell(FORGED[how](scene, scene.pen("x")))
    scene.check_refused("x")


def test_the_node_itself_is_told_of_a_self_that_it_is_not() -> None:
    scene = Scene()
    scene.tell(scene.pen("m").record().replace(version=9))
    scene.check_refused("m")


def test_what_is_old_changes_nothing() -> None:
    """A record that was true once: of an earlier version, an earlier life, one that has left."""
    scene = Scene()
    old = scene.far.record()
    scene.tell(scene.far.record(version=3, addresses=ELSEWHERE))
    scene.tell(scene.far.record(incarnation=4))
    scene.tell(old, scene.far.record(version=2), scene.far.record(incarnation=3, version=9))
    (held,) = [r for r in scene.m.control.membership.records() if r.node_id == "far"]
    assert (held.incarnation, held.version, held.addresses) == (4, 0, (address_of("far"),))
    scene.tell(scene.far.farewell(4))
    assert "far" not in [member.node_id for member in scene.m.control.members()]
    scene.tell(scene.far.record(incarnation=4, version=8), old)
    assert "far" not in [member.node_id for member in scene.m.control.members()]
    assert scene.refused == 0, "who repeats what is old may be late, and honest"


def test_what_is_held_is_not_checked_again() -> None:
    scene = Scene()
    notary = scene.world.notary
    assert notary is not None
    (held,) = [r for r in scene.m.control.membership.records() if r.node_id == "far"]
    before = notary.checked
    bare = held.replace(seal=Seal(held.seal.signature))
    accused = bare.replace(accusers=("a",))
    swapped = held.replace(seal=Seal(held.seal.signature, b"whatever it is"))
    scene.tell(held, held, bare, accused, swapped, held.replace(listed=0, head=None))
    scene.list_as(1, scene.agent)
    assert notary.checked == before
    assert scene.refused == 0


def test_without_a_certificate_a_newcomer_is_not_known_yet() -> None:
    scene = Scene()
    record = scene.pen("x").record()
    scene.tell(record.replace(seal=Seal(record.seal.signature)))
    assert scene.view() == scene.before
    assert scene.refused == 0, "its node may have sent the certificate before"
    assert scene.m.control.stats()["records_unproven"] == 1
    scene.tell(record)
    assert scene.m.control.membership.living("x") is not None


def test_a_certificate_that_has_expired_is_nobodys_forgery() -> None:
    scene = Scene()
    assert scene.world.notary is not None
    scene.world.notary.expired.add("x")
    scene.tell(scene.pen("x").record())
    assert scene.view() == scene.before
    assert scene.refused == 0
    assert scene.m.control.stats()["records_unproven"] == 1


def test_a_link_brings_so_many_forgeries_and_no_more() -> None:
    scene = Scene(forgeries_max=3)
    for _ in range(3):
        scene.tell(scene.pen("a").record().replace(version=1))
    scene.check_refused("a", times=3)
    assert scene.world.notary is not None
    checked = scene.world.notary.checked
    scene.tell(*[scene.pen("a").record().replace(version=1)] * 50)
    assert scene.world.notary.checked == checked + 1, "a liar does not keep others busy"
    assert scene.r.session.closed
    (close,) = [Close.decode(body) for body in scene.r.bodies(CLOSE)]
    error = close.error()
    assert isinstance(error, Forged)
    assert error.definite
    assert "forgeries_max" in str(error)
    again = Stranger(scene.world, scene.m, name="r")
    again.introduce()
    assert again.session.welcomed, "it may come again, and begins anew"


# -- lists


def altered(agent: AgentRecord, **fields: object) -> AgentRecord:
    copy = AgentRecord(agent.agent_id, agent.node_id, agent.name, agent.capabilities, agent.metadata)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


ALTERED: dict[str, Callable[[AgentRecord], list[AgentRecord]]] = {
    "a capability more": lambda agent: [altered(agent, capabilities=("see", "sudo"))],
    "other metadata": lambda agent: [altered(agent, metadata={"price": "0"})],
    "in a group": lambda agent: [altered(agent, groups=("g",))],
    "not well": lambda agent: [altered(agent, health="quota gone")],
    "no broadcasts": lambda agent: [altered(agent, broadcasts=False)],
    "another agent": lambda agent: [agent, AgentRecord(10, "far")],
    "an agent less": lambda agent: [],
    "twice the same": lambda agent: [agent, agent],
}


@pytest.mark.parametrize("how", ALTERED)
def test_a_list_that_its_owner_did_not_sign(how: str) -> None:
    """The signature is genuine, the list is not."""
    scene = Scene()
    genuine = scene.far.head(2, scene.agent)
    scene.list_as(2, *ALTERED[how](scene.agent), head=genuine)
    scene.check_refused("far")
    scene.list_as(2, scene.agent, head=genuine)
    assert scene.m.control.directory.held("far") == (1, 2), "whoever brings the true one is heard"


@pytest.mark.parametrize("by", ["r", "other network", "nobody", "older"])
def test_a_list_with_a_signature_that_is_not_its_owners(by: str) -> None:
    scene = Scene()
    agents = (scene.agent, AgentRecord(10, "far"))
    heads = {
        "r": scene.pen("far", key="r").head(2, *agents),
        "other network": scene.pen("far", uuid=OTHER_UUID).head(2, *agents),
        "older": scene.far.head(1, *agents),
        "nobody": None,
    }
    for body in write_whole("far", 1, 2, agents, 4096, heads[by]):
        scene.r.say(AGENTS, body)
    scene.world.run(20)
    scene.check_refused("far")


@pytest.mark.parametrize("how", ["record", "removal", "unsigned", "reminder"])
def test_a_change_that_its_owner_did_not_sign(how: str) -> None:
    scene = Scene()
    more = AgentRecord(10, "far")
    genuine = scene.far.head(2, scene.agent, more)
    match how:
        case "record":
            (body,) = write_change(
                "far", 1, 1, [altered(more, name=None, metadata={"k": "v"})], [], 999, lambda *_: genuine
            )
        case "removal":
            (body,) = write_change("far", 1, 1, [more], [9], 999, lambda *_: genuine)
        case "unsigned":
            (body,) = write_change("far", 1, 1, [more], [], 999)
        case _:
            body = write_reminder("far", 1, 50, scene.far.head(49))
    scene.r.say(AGENTS, body)
    scene.world.run(20)
    scene.check_refused("far")
    (body,) = write_change("far", 1, 1, [more], [], 999, lambda *_: genuine)
    scene.r.say(AGENTS, body)
    scene.world.run(20)
    assert scene.m.control.directory.get(10) is not None


def test_a_change_that_comes_early_is_proven_when_its_base_is_there() -> None:
    scene = Scene()
    two, three = AgentRecord(2, "far"), AgentRecord(3, "far")
    third = scene.far.head(3, scene.agent, two, three)
    (lie,) = write_change("far", 1, 2, [altered(three, metadata={"k": "v"})], [], 999, lambda *_: third)
    scene.r.say(AGENTS, lie)
    scene.world.run(20)
    second = scene.far.head(2, scene.agent, two)
    (truth,) = write_change("far", 1, 1, [two], [], 999, lambda *_: second)
    scene.r.say(AGENTS, truth)
    scene.world.run(20)
    assert scene.m.control.directory.get(2) is not None
    assert scene.m.control.directory.get(3) is None
    assert scene.refused == 1


def test_nothing_of_a_list_counts_before_all_of_it_is_proven() -> None:
    scene = Scene()
    agents = [AgentRecord(i, "far") for i in range(10, 210)]
    *parts, last = write_whole("far", 1, 2, agents, 300, scene.far.head(2, *agents))
    assert len(parts) > 2
    for body in parts:
        scene.r.say(AGENTS, body)
    scene.world.run(20)
    assert scene.view() == scene.before
    scene.r.say(AGENTS, last)
    scene.world.run(20)
    assert len(scene.m.control.directory.owned_by("far")) == 200


@pytest.mark.parametrize("more", [0, 1])
def test_what_is_held_back_is_bounded(more: int) -> None:
    """Two have places already: those of another node."""
    scene = Scene(agents_max=8)
    agents = [AgentRecord(i, "far") for i in range(9, 17 + more)]
    for body in write_whole("far", 1, 2, agents, 150, scene.far.head(2, *agents)):
        scene.r.say(AGENTS, body)
    scene.world.run(20)
    assert scene.m.control.directory.held("far") == (1, 2)
    assert len(scene.m.control.directory) == 8
    assert scene.refused == 0
    untaken = scene.m.told(Event.AGENT_CONFLICT)
    assert len(untaken) == 2 + more
    assert all("agents_max=8" in event.detail for event in untaken)


# -- who signs, and who does not


def test_who_does_not_sign_is_not_let_in() -> None:
    world = World(secure=True)
    m = world.node("m")
    m.control.found(UUID)
    old = Stranger(world, m, name="a")
    old.introduce(features_required=0)
    assert old.close is not None
    assert "node 'a' does not sign" in old.close.text


def test_a_leave_is_believed_far_away() -> None:
    """On rings most nodes have no link to the one that leaves."""
    world = World(secure=True)
    config = EngineConfig(mesh_nodes_max=2, overlay_rings=1)
    nodes: list[Node] = [world.node(f"n{i}", config=config) for i in range(8)]
    nodes[0].control.found(UUID)
    for node in nodes[1:]:
        world.finish(node.join("n0"))
    world.until(lambda: all(len(node.control.members()) == 8 for node in nodes))
    nodes[3].leave()
    living = [node for node in nodes if not node.dead]
    world.until(lambda: all(node.told(Event.LEFT) for node in living))
    assert not any(node.told(Event.LOST) or node.told(Event.FORGED) for node in living)
    assert all(node.control.stats()["records_refused"] == 0 for node in living)


def test_certificates_are_told_once() -> None:
    """Who is told of a newcomer gets its certificate, who is told more of it later does not."""
    scene = Scene()
    listener = Stranger(scene.world, scene.m, name="b")
    listener.introduce()
    listener.say(DIGEST, encode_digest(bytes(DIGEST_BYTES), False))
    scene.world.run(20)
    told = [record for body in listener.bodies(MEMBERS) for record in decode_members(body)]
    assert len(told) >= 4
    assert all(record.seal is not None and record.seal.certificate for record in told)
    listener.heard.clear()
    scene.tell(scene.far.record(version=1))
    told = [record for body in listener.bodies(MEMBERS) for record in decode_members(body)]
    assert [(record.node_id, record.version, record.seal.certificate) for record in told] == [("far", 1, b"")]


# -- where agents are


@pytest.mark.parametrize("agent", ["nobody", "seen"])
def test_a_keeper_that_lies_about_whose_an_id_is(agent: str) -> None:
    """It says so of every id it is asked for; a registration goes on, a message is not kept for ever."""
    config = EngineConfig(mesh_nodes_max=2, overlay_rings=4)
    world = World(secure=True)
    m, other = world.node("m", config=config), world.node("b", config=config)
    m.control.found(UUID)
    world.finish(other.join("m"))
    source = m.agent("source")
    liar = Stranger(world, m, name="r")
    liar.introduce()
    liar.say(MEMBERS, encode_members([Pen(world, "r").record()])[0])
    world.run(100)

    def lie() -> None:
        for number, ids in (read_where(body) for body in liar.bodies(WHERE)):
            liar.say(THERE, write_there(number, [Place(i, "b", 1, 99) for i in ids]))
        liar.heard.clear()

    token = m.register(m.make("mine")) if agent == "nobody" else source.send("seen", b"x")
    for _ in range(40):
        lie()
        world.run(50)
    if agent == "seen":
        assert isinstance(token.error, AgentUnreachable)
    else:
        assert m.control.directory.get("mine") is not None
        assert not token.done, "the liar, who keeps it, too, has not confirmed it"
    assert len(m.control.catalogue._pulls) == 0, "what nobody signed is not asked for any more"


# -- scenarios


@pytest.mark.parametrize(("play", "seed"), [(calm, 0), (storm, 0), (storm, 2)])
def test_scenarios_of_signed_networks(play: Callable[..., object], seed: int) -> None:
    """All that is honest passes for it, whatever the network does; nobody is called a liar."""
    world = World(seed, secure=True)
    play(world)
    assert not any(node.told(Event.FORGED) for node in world.nodes.values())


# -- broadcasts


class Chorus:
    """Eight signed nodes on rings, each with an agent, and a liar that is a neighbour of one."""

    def __init__(self) -> None:
        self.world = World(secure=True)
        config = EngineConfig(mesh_nodes_max=2, overlay_rings=1)
        self.nodes = [self.world.node(f"n{i}", config=config) for i in range(8)]
        self.nodes[0].control.found(UUID)
        for node in self.nodes[1:]:
            self.world.finish(node.join("n0"))
        self.ears = [node.agent(f"ear-{node.name}", lambda message: None) for node in self.nodes]
        self.liar = Stranger(self.world, self.nodes[3], name="r")
        self.liar.introduce()
        self.liar.say(MEMBERS, encode_members([Pen(self.world, "r").record()])[0])
        self.world.run(1000)

    def heard(self) -> list[int]:
        return [len(ear.received) for ear in self.ears]

    def say(self, origin: str, sequence: int, payload: bytes, *, key: str = "", signed: bytes = b"") -> None:
        pen = Pen(self.world, origin, key=key)
        digest = blake2b(signed or payload, digest_size=32).digest()
        seal = Seal(pen.sign(BROADCAST, origin, 1, sequence, digest), pen.key.certificate)
        gossip = Gossip(pack_id(origin, 1, sequence), 1, 0, False, payload, seal)
        self.liar.say(*encode(gossip))
        self.world.run(500)

    def refused(self) -> int:
        return sum(node.control.stats()["records_refused"] for node in self.nodes)


def message(from_agent: int) -> bytes:
    return bytes((MESSAGES,)) + AgentMessage(b"x", from_agent=from_agent, message_type=5).encode()


def test_broadcasts_of_a_signed_network_reach_all_once() -> None:
    chorus = Chorus()
    for ear in chorus.ears:
        chorus.world.nodes[ear.node.name].engine.broadcast(AgentMessage(b"all"), ear.agent_id)
    chorus.world.run(2000)
    assert chorus.heard() == [8] * 8
    assert chorus.refused() == 0


def test_a_broadcast_that_its_origin_did_not_send() -> None:
    chorus = Chorus()
    victim = chorus.nodes[6]
    chorus.say("n6", 900, message(0), key="r")
    chorus.say("n6", 901, message(0), signed=b"another")
    unsigned = Gossip(pack_id("n6", 1, 902), 1, 0, False, message(0))
    chorus.liar.say(*encode(unsigned))
    chorus.world.run(500)
    assert chorus.heard() == [0] * 8
    assert chorus.refused() == 3, "and nobody passed it on"
    assert [event.node_id for event in chorus.nodes[3].told(Event.FORGED)] == ["r"] * 3
    victim.engine.broadcast(AgentMessage(b"true"), chorus.ears[6].agent_id)
    chorus.world.run(2000)
    assert chorus.heard() == [1] * 8, "its numbers are not used up by others"


def test_a_broadcast_in_the_name_of_an_agent_of_another_node() -> None:
    chorus = Chorus()
    chorus.say("r", 1, message(chorus.ears[6].agent_id))
    assert chorus.heard() == [0] * 8
    assert chorus.refused() == 0, "it is its own broadcast"
    assert chorus.nodes[3].control.stats()["broadcasts_refused"] == 1
    chorus.say("r", 2, message(0))
    assert chorus.heard() == [1] * 8


def test_who_was_never_heard_of_sends_its_certificate_along() -> None:
    chorus = Chorus()
    chorus.say("x", 1, message(0))
    assert chorus.heard() == [1] * 8
