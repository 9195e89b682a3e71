"""Broadcasts along a tree: single decisions, limits, and the wire."""

from __future__ import annotations

import pytest

from agentnet_core.config import BROADCAST_BYTES, EngineConfig
from agentnet_core.errors import ConfigError, MessageTooLarge, ProtocolError
from agentnet_core.gossip import (
    HOPS_MAX,
    IDS_MAX,
    Frame,
    Gone,
    Gossip,
    Graft,
    Ihave,
    Prune,
    decode,
    encode,
    pack_id,
)
from agentnet_core.tree import CHANGE, EAGER_ENOUGH, NEVER, Tree

MS = 1_000_000
CONFIG = EngineConfig()
ANNOUNCE, GRAFTED, KEPT = CONFIG.announce_interval_ms, CONFIG.graft_delay_ms, CONFIG.broadcasts_kept_ms
PRUNED = CONFIG.prune_delay_ms

within = pytest.mark.parametrize("beyond", [False, True], ids=["within", "beyond"])


def tree(*peers: str, name: str = "m", crowded: dict[str, int] | None = None, **limits: int) -> Tree:
    """A node with an eager link to each of ``peers``; the ``crowded`` take only so many bytes now."""

    def is_crowded(peer: str, more: int) -> bool:
        return crowded is not None and peer in crowded and more >= crowded[peer]

    made = Tree(name, 1, EngineConfig(**limits), is_crowded)
    for peer in peers:
        made.link_up(peer, 0)
        made.receive(peer, Graft(()), 0)
    made.drain_frames()
    return made


def of(origin: str, sequence: int = 1) -> bytes:
    return pack_id(origin, 1, sequence)


def gossip(
    origin: str = "o",
    sequence: int = 1,
    payload: bytes = b"x",
    hops: int = 1,
    age_ms: int = 0,
    shapes: bool = False,
) -> Gossip:
    return Gossip(of(origin, sequence), hops, age_ms, shapes, payload)


def sent(one: Tree) -> list[tuple[str, Frame]]:
    return [(name, frame) for names, frame in one.drain_frames() for name in names]


def got(one: Tree) -> list[tuple[str, int]]:
    return [(each.origin, each.sequence) for each in one.drain_delivered()]


def hear(one: Tree, peer: str, frame: Frame, ms: int = 0) -> list[tuple[str, Frame]]:
    one.receive(peer, frame, ms * MS)
    return sent(one)


def tick(one: Tree, ms: int) -> list[tuple[str, Frame]]:
    one.tick(ms * MS)
    return sent(one)


# -- copies


def test_the_first_copy_is_delivered_and_sent_on() -> None:
    one = tree("a", "b", "c")
    assert hear(one, "a", gossip(hops=3)) == [("b", gossip(hops=4)), ("c", gossip(hops=4))]
    assert one.drain_delivered() == [gossip(hops=3)]
    assert not one.drain_delivered()


def test_a_further_copy_prunes_its_link_at_both_ends() -> None:
    one, other = tree("a", "b"), tree("m", name="b")
    hear(one, "a", gossip(shapes=True))
    assert hear(one, "b", gossip(shapes=True)) == []
    assert one.next_deadline_ns() == PRUNED * MS
    assert tick(one, PRUNED - 1) == []
    assert tick(one, PRUNED) == [("b", Prune())]
    assert (one.eager(), one.lazy(), one.duplicates, len(got(one))) == (["a"], ["b"], 1, 1)
    assert hear(other, "m", Prune()) == []
    assert other.lazy() == ["m"]


def test_one_that_does_not_shape_the_tree_prunes_nothing() -> None:
    one = tree("a", "b")
    hear(one, "a", gossip())
    hear(one, "b", gossip())
    assert tick(one, PRUNED) == []
    assert (one.lazy(), one.duplicates) == ([], 1)


def test_where_links_are_many_any_copy_too_many_prunes_its_link() -> None:
    names = [f"p{number}" for number in range(EAGER_ENOUGH + 2)]
    one = tree(*names)
    hear(one, "p0", gossip())
    told = [hear(one, name, gossip(), 1) for name in names[1:4]]
    assert told == [[("p1", Prune())], [("p2", Prune())], []], "the others are no more than enough"
    assert len(one.eager()) == EAGER_ENOUGH


def test_while_a_broadcast_shapes_the_tree_no_other_prunes_it() -> None:
    one = tree(*(f"p{number}" for number in range(EAGER_ENOUGH + 2)))
    hear(one, "p0", gossip("x", shapes=True))
    hear(one, "p0", gossip("y"), 1)
    assert hear(one, "p1", gossip("y"), PRUNED - 1) == []
    assert hear(one, "p2", gossip("y"), PRUNED) == [("p2", Prune())]


def test_of_several_at_once_the_least_shapes_the_tree() -> None:
    one = tree("a", "b", "c")
    hear(one, "a", gossip("y", shapes=True))
    hear(one, "b", gossip("y", shapes=True))
    hear(one, "b", gossip("x", shapes=True), PRUNED - 1)
    hear(one, "c", gossip("x", shapes=True), PRUNED - 1)
    hear(one, "a", gossip("z", shapes=True), PRUNED - 1)
    hear(one, "b", gossip("z", shapes=True), PRUNED - 1)
    assert tick(one, PRUNED) == [("c", Prune())]
    hear(one, "a", gossip("w", shapes=True), 2 * PRUNED - 1)
    hear(one, "b", gossip("w", shapes=True), 2 * PRUNED - 1)
    assert ("b", Prune()) not in tick(one, 4 * PRUNED), "it was too late, and too soon"


def test_an_origin_shapes_the_tree_when_none_did_for_a_while() -> None:
    one = tree("a")
    shaping = []
    for ms in (0, 1, 4 * PRUNED - 1, 4 * PRUNED, 5 * PRUNED, 9 * PRUNED - 1):
        one.tick(ms * MS)
        if ms == 5 * PRUNED:
            hear(one, "a", gossip(shapes=True), 5 * PRUNED)  # too soon after the last: it does not count
        one.publish(b"p", ms * MS)
        shaping += [frame.shapes for _, frame in sent(one) if isinstance(frame, Gossip)]
    assert shaping == [True, False, False, True, False, True]


@pytest.mark.parametrize("saved", ["graft", "grafted", "gone", "bringer gone"])
def test_a_link_that_is_needed_since_is_not_pruned(saved: str) -> None:
    one = tree("a", "b")
    hear(one, "a", gossip(shapes=True))
    hear(one, "b", gossip(shapes=True))
    match saved:
        case "graft":
            hear(one, "b", Graft((of("o"),)))
        case "grafted":
            hear(one, "b", Ihave((of("o", 2),)))
            assert GRAFTED <= PRUNED
        case "gone":
            one.link_down("b", 0)
            one.link_up("b", 0)
            hear(one, "b", Graft(()))
        case _:
            one.link_down("a", 0)
    assert ("b", Prune()) not in tick(one, PRUNED)
    assert "b" in one.eager()


def test_to_lazy_links_it_is_announced_some_together() -> None:
    one = tree("a", "b")
    hear(one, "b", Prune())
    assert hear(one, "a", gossip(sequence=1), 10) == []
    assert hear(one, "a", gossip(sequence=2), 50) == []
    assert one.next_deadline_ns() == (10 + ANNOUNCE) * MS
    assert tick(one, 9 + ANNOUNCE // 2) == []
    # What is half due goes along with what else is.
    assert tick(one, 10 + ANNOUNCE // 2) == [("b", Ihave((of("o", 1), of("o", 2))))]
    assert tick(one, 500) == []


def test_in_a_large_network_more_is_announced_together() -> None:
    one = tree("a", "b")
    hear(one, "b", Prune())
    one.pace(600)
    assert hear(one, "a", gossip(sequence=1), 10) == []
    assert one.next_deadline_ns() == (10 + 300) * MS
    assert tick(one, 9 + 150) == []
    assert tick(one, 10 + 150) == [("b", Ihave((of("o", 1),)))]
    one.pace(3)
    assert hear(one, "a", gossip(sequence=2), 1_000) == []
    assert one.next_deadline_ns() == (1_000 + ANNOUNCE) * MS


def test_that_a_list_has_changed_is_announced_later_but_along_with_what_is_not() -> None:
    one = tree("a", "b")
    hear(one, "b", Prune())
    hear(one, "a", gossip(sequence=1, payload=CHANGE))
    assert one.next_deadline_ns() == 4 * ANNOUNCE * MS
    assert tick(one, 2 * ANNOUNCE - 1) == []
    assert tick(one, 2 * ANNOUNCE) == [("b", Ihave((of("o", 1),)))]
    hear(one, "a", gossip(sequence=2, payload=CHANGE), 1_000)
    hear(one, "a", gossip(sequence=3), 1_010)
    assert one.next_deadline_ns() == (1_010 + ANNOUNCE) * MS
    assert tick(one, 1_010 + ANNOUNCE) == [("b", Ihave((of("o", 2), of("o", 3))))]


def test_nothing_is_announced_to_one_that_has_it() -> None:
    one = tree("a", "b", "c")
    hear(one, "b", Prune())
    hear(one, "c", Prune())
    hear(one, "a", gossip())
    hear(one, "b", Ihave((of("o"),)))
    hear(one, "c", gossip())
    assert tick(one, ANNOUNCE) == []
    hear(one, "b", Ihave((of("o", 2),)))
    assert hear(one, "a", gossip(sequence=2)) == []
    assert tick(one, 2 * ANNOUNCE) == [("c", Ihave((of("o", 2),)))]


def test_what_it_publishes_goes_to_all_and_not_to_itself() -> None:
    one = tree("a", "b")
    assert one.publish(b"p", 0) == of("m", 1)
    assert one.publish(b"q", 0) == of("m", 2)
    first, second = gossip("m", 1, b"p", shapes=True), gossip("m", 2, b"q")
    assert sent(one) == [("a", first), ("b", first), ("a", second), ("b", second)]
    assert hear(one, "a", gossip("m", 1)) == hear(one, "a", gossip("m", 99)) == []
    assert got(one) == [], "nobody else publishes as this node"
    assert tick(one, PRUNED) == [("a", Prune())]


def test_one_frame_for_several_is_one_object() -> None:
    one = tree("a", "b")
    one.publish(b"p", 0)
    assert one.drain_frames() == [(("a", "b"), gossip("m", 1, b"p", shapes=True))]


def test_a_frame_of_one_that_is_not_linked_is_not_taken() -> None:
    one = tree("a")
    one.link_down("a", 0)
    for frame in (gossip(), Ihave((of("o"),)), Graft((of("o"),)), Gone((of("o"),)), Prune()):
        assert hear(one, "a", frame) == []
    assert (got(one), one.awaited, one.next_deadline_ns()) == ([], 0, NEVER)


# -- repair


def test_what_is_announced_and_does_not_come_is_asked_for_in_turn() -> None:
    one = tree("a", "b", "c")
    for peer in "abc":
        hear(one, peer, Prune())
    for ms, peer in enumerate("bca"):
        assert hear(one, peer, Ihave((of("o"),)), ms) == []
    assert one.next_deadline_ns() == GRAFTED * MS
    assert tick(one, GRAFTED - 1) == []
    assert tick(one, GRAFTED) == [("b", Graft((of("o"),)))]
    assert one.eager() == ["b"]
    assert tick(one, 2 * GRAFTED) == [("c", Graft((of("o"),)))]
    assert hear(one, "c", Gone((of("o"),)), 2 * GRAFTED + 1) == [("a", Graft((of("o"),)))], "at once"
    assert hear(one, "b", Gone((of("o"),)), 2 * GRAFTED + 1) == [], "it is asked no more"
    assert (one.awaited, one.unanswered) == (1, 0)
    assert tick(one, 3 * GRAFTED + 1) == []
    assert (one.awaited, one.unanswered) == (0, 1)
    hear(one, "a", gossip())
    assert got(one) == [("o", 1)], "it may come yet"


def test_what_comes_is_asked_for_no_more() -> None:
    one = tree("a", "b")
    hear(one, "a", Ihave((of("o"),)))
    hear(one, "b", gossip())
    assert (one.awaited, tick(one, GRAFTED)) == (0, [])


def test_when_a_link_goes_the_next_is_asked() -> None:
    one = tree("a", "b", "c")
    for peer in "abc":
        hear(one, peer, Ihave((of("o"),)))
    assert tick(one, GRAFTED) == [("a", Graft((of("o"),)))]
    one.link_down("b", GRAFTED * MS)
    assert sent(one) == []
    one.link_down("a", GRAFTED * MS)
    assert sent(one) == [("c", Graft((of("o"),)))]
    one.link_up("c", GRAFTED * MS)  # in the place of the other
    assert (one.awaited, one.unanswered) == (0, 1)


def test_a_graft_is_answered_and_what_comes_after_it_is_sent() -> None:
    one = tree("a", "b")
    hear(one, "b", Prune())
    hear(one, "a", gossip(sequence=1, hops=2, age_ms=30))
    answer = gossip(sequence=1, hops=3, age_ms=70)
    assert hear(one, "b", Graft((of("o", 1), of("o", 7), of("o", 1))), 40) == [
        ("b", answer),
        ("b", Gone((of("o", 7),))),
    ]
    assert tick(one, ANNOUNCE) == [], "it has it"
    assert hear(one, "a", gossip(sequence=2)) == [("b", gossip(sequence=2, hops=2))]


def test_a_new_link_is_told_of_what_is_kept() -> None:
    one = tree()
    one.publish(b"p", 0)
    one.publish(CHANGE + b"is found by the version of its list", 0, own=True)
    one.link_up("a", 5000 * MS)
    assert sent(one) == [("a", Graft(())), ("a", Ihave((of("m"),)))]
    assert hear(one, "a", Graft((of("m"),)), 6000) == [("a", gossip("m", payload=b"p", age_ms=6000))]
    one.link_up("b", KEPT * MS)
    assert sent(one) == [], "it is too old"
    assert one.publish(b"q", 0)
    assert [name for name, _ in sent(one)] == ["a"], "the first is eager"


def test_a_node_hangs_on_the_tree_by_its_first_link() -> None:
    one = tree()
    one.link_up("a", 0)
    assert sent(one) == [("a", Graft(()))]
    one.link_up("b", 0)
    one.link_up("c", 0)
    assert (sent(one), one.eager(), one.lazy()) == ([], ["a"], ["b", "c"])
    hear(one, "c", Graft(()))
    assert one.eager() == ["a", "c"], "which hangs on this one"
    one.link_down("a", 0)
    assert sent(one) == []
    one.link_down("c", 0)
    assert (sent(one), one.eager()) == ([("b", Graft(()))], ["b"])
    one.link_down("b", 0)
    assert (sent(one), one.eager()) == ([], [])


def test_many_ids_are_several_frames() -> None:
    one = tree(broadcasts_kept_max=2 * IDS_MAX)
    for _ in range(IDS_MAX + 1):
        one.publish(b"", 0)
    one.link_up("a", 0)
    assert [len(frame.broadcasts) for _, frame in sent(one) if isinstance(frame, Ihave)] == [IDS_MAX, 1]
    worst = Ihave(tuple(pack_id("n" * 64, 2**64 - 1, 2**64 - 1) for _ in range(IDS_MAX)))
    assert len(encode(worst)[1]) < 48 * 1024


def test_announcements_do_not_pile_up() -> None:
    one = tree("a", "b")
    hear(one, "b", Prune())
    for sequence in range(1, IDS_MAX):
        assert hear(one, "a", gossip(sequence=sequence)) == []
    ((name, frame),) = hear(one, "a", gossip(sequence=IDS_MAX))
    assert isinstance(frame, Ihave)
    assert (name, len(frame.broadcasts)) == ("b", IDS_MAX)
    assert tick(one, ANNOUNCE) == []


# -- limits


# -- who does not read, and who sends too much


def test_one_that_is_crowded_is_told_when_it_has_read() -> None:
    crowded = {"b": 0}
    one = tree("a", "b", "c", crowded=crowded)
    assert hear(one, "a", gossip()) == [("c", gossip(hops=2))]
    assert one.put_off == 1
    assert tick(one, ANNOUNCE) == tick(one, 2 * ANNOUNCE) == []
    assert one.next_deadline_ns() == 3 * ANNOUNCE * MS
    crowded.clear()
    assert tick(one, 3 * ANNOUNCE) == [("b", Ihave((of("o"),)))]
    assert [name for name, _ in hear(one, "b", Graft((of("o"),)), 3 * ANNOUNCE)] == ["b"]


def test_what_it_asks_for_comes_in_parts_that_it_can_read() -> None:
    crowded = {"b": 20}
    one = tree("a", "b", crowded=crowded)
    for sequence in range(1, 6):
        hear(one, "a", gossip(sequence=sequence, payload=bytes(10)))
    ids = tuple(of("o", sequence) for sequence in range(1, 6))
    answer = hear(one, "b", Graft(ids), 1)
    assert [frame.broadcast for _, frame in answer if isinstance(frame, Gossip)] == list(ids[:2])
    crowded.clear()
    assert tick(one, ANNOUNCE + 1) == [("b", Ihave(ids[2:]))]


def test_who_was_asked_and_announces_it_again_is_asked_again() -> None:
    one = tree("a")
    hear(one, "a", Ihave((of("o"),)))
    assert tick(one, GRAFTED) == [("a", Graft((of("o"),)))]
    assert hear(one, "a", Ihave((of("o"),)), GRAFTED + 1) == []
    assert tick(one, 2 * GRAFTED) == [("a", Graft((of("o"),)))]
    assert tick(one, 3 * GRAFTED) == []
    assert (one.unanswered, one.awaited) == (1, 0)


def test_what_is_to_be_announced_to_a_crowded_one_is_bounded_by_what_is_kept() -> None:
    crowded = {"b": 0}
    one = tree("a", "b", crowded=crowded, broadcasts_kept_max=3)
    for sequence in range(1, 6):
        hear(one, "a", gossip(sequence=sequence))
    assert len(one.pending("b")) == 3
    crowded.clear()
    assert tick(one, ANNOUNCE) == [("b", Ihave(tuple(of("o", sequence) for sequence in (3, 4, 5))))]


def test_what_is_kept_no_more_is_not_announced() -> None:
    crowded = {"b": 0}
    one = tree("a", "b", crowded=crowded, broadcasts_kept_ms=2 * ANNOUNCE)
    hear(one, "a", gossip())
    tick(one, ANNOUNCE)
    tick(one, 2 * ANNOUNCE)
    crowded.clear()
    assert tick(one, 3 * ANNOUNCE) == []


@within
@pytest.mark.parametrize("limit", [{"broadcasts_kept_max": 8}, {"broadcasts_kept_bytes_max": 80_000}])
def test_broadcasts_young_ms(beyond: bool, limit: dict[str, int]) -> None:
    one = tree("a", broadcasts_young_ms=100, **limit)
    size = 10_000
    one.publish(bytes(size), 0)
    assert one.room_ns(size, 0) == 0
    one.publish(bytes(size), 5 * MS)
    assert one.room_ns(size, 10 * MS) == 100 * MS, "a quarter is its own"
    now_ns = (100 if beyond else 99) * MS
    assert (one.room_ns(size, now_ns) <= now_ns) is beyond
    for sequence in range(1, 7):
        hear(one, "a", gossip(sequence=sequence, payload=bytes(size)), 10)
    assert one.room_ns(size, 101 * MS) == 101 * MS, "the oldest are old"
    one.publish(bytes(size), 101 * MS)
    one.publish(bytes(size), 101 * MS)
    assert one.room_ns(size, 106 * MS) == 201 * MS
    assert one.room_ns(1, 250 * MS) == 250 * MS
    for sequence in range(7, 15):
        hear(one, "a", gossip(sequence=sequence, payload=bytes(size)), 300)
    assert one.room_ns(size, 310 * MS) == 400 * MS, "what others sent is young, and would go"


def test_one_that_takes_more_than_a_share_goes_alone() -> None:
    one = tree("a", broadcasts_kept_bytes_max=49_152, broadcasts_kept_max=1)
    assert one.room_ns(49_152, 7) == 7
    one.publish(bytes(48_000), 7)
    assert one.room_ns(1, 8) > 8


@within
def test_broadcast_bytes_max(beyond: bool) -> None:
    one = tree("a", broadcast_bytes_max=1000)
    if beyond:
        with pytest.raises(MessageTooLarge, match="broadcast_bytes_max=1000") as caught:
            one.publish(bytes(1001), 0)
        assert caught.value.definite
        assert sent(one) == []
    assert one.publish(bytes(1000), 0) == of("m", 1)


@within
def test_the_largest_broadcast_that_any_node_may_send_fits_a_frame_of_every_node(beyond: bool) -> None:
    if beyond:
        with pytest.raises(ConfigError, match="broadcast_bytes_max=61441: expected at most 61440"):
            EngineConfig(broadcast_bytes_max=BROADCAST_BYTES + 1)
    large = Gossip(
        pack_id("n" * 64, 2**64 - 1, 2**64 - 1),
        HOPS_MAX,
        2**64 - 1,
        True,
        bytes(BROADCAST_BYTES + beyond),
    )
    kind, body = encode(large)
    assert len(body) < 64 * 1024 - 6
    if beyond:
        with pytest.raises(ProtocolError, match="GOSSIP payload"):
            decode(kind, body)
    else:
        assert decode(kind, body) == large


@within
def test_broadcast_window_max(beyond: bool) -> None:
    one = tree("a", broadcast_window_max=8, broadcasts_kept_max=8)
    hear(one, "a", gossip(sequence=1))
    hear(one, "a", gossip(sequence=3))
    assert one.missed == 0
    hear(one, "a", gossip(sequence=9 + beyond))
    got(one)
    assert one.missed == beyond, "2 has left the window, or not"
    hear(one, "a", gossip(sequence=2))
    assert got(one) == ([] if beyond else [("o", 2)])


@pytest.mark.parametrize(("sequence", "missed"), [(4, 0), (11, 1), (12, 2), (13, 2), (20, 9), (1000, 989)])
def test_a_leap_is_missed_but_for_what_was_here(sequence: int, missed: int) -> None:
    one = tree("a", broadcast_window_max=8, broadcasts_kept_max=8)
    for each in (2, 5, sequence):
        hear(one, "a", gossip(sequence=each))
    # From 2 on, all that are 8 or more before the newest, but for 2 and 5.
    assert one.missed == len(set(range(2, sequence - 7)) - {2, 5}) == missed


@within
def test_broadcast_origins_max(beyond: bool) -> None:
    one = tree("a", broadcast_origins_max=3)
    for number in range(3 + beyond):
        hear(one, "a", gossip(f"o{number}"))
    assert len(got(one)) == 3
    assert one.origins_refused == beyond
    hear(one, "a", gossip("o0", 3), 1)
    hear(one, "a", gossip("new"), 2 * KEPT)
    assert got(one) == [("o0", 3), ("new", 1)], "o1 is silent"
    assert one.missed == 0
    hear(one, "a", gossip("o3"), 2 * KEPT)
    hear(one, "a", gossip("o4"), 2 * KEPT + 1)
    assert got(one) == [("o3", 1), ("o4", 1)]
    assert one.missed == 1, "2 of o0"


@within
@pytest.mark.parametrize("limit", ["broadcasts_kept_max", "broadcasts_kept_bytes_max"])
def test_broadcasts_kept(limit: str, beyond: bool) -> None:
    one = tree(**{"broadcast_bytes_max": 100, limit: 3 if limit == "broadcasts_kept_max" else 300})
    for _ in range(3 + beyond):
        one.publish(bytes(100), 0)
    assert one.kept == (3, 300)
    one.link_up("a", 0)
    ids = [of("m", sequence) for sequence in range(1 + beyond, 4 + beyond)]
    assert sent(one) == [("a", Graft(())), ("a", Ihave(tuple(ids)))]


@within
def test_broadcasts_kept_ms(beyond: bool) -> None:
    one = tree("a")
    hear(one, "a", gossip(age_ms=1000), 500)
    answered = hear(one, "a", Graft((of("o"),)), KEPT - 500 - 1 + beyond)
    age_ms = KEPT - 1
    assert answered == [("a", Gone((of("o"),)) if beyond else gossip(hops=2, age_ms=age_ms))]
    assert one.next_deadline_ns() == (500 + KEPT) * MS
    tick(one, KEPT + 500)
    assert one.kept == (0, 0)
    hear(one, "a", gossip())
    assert (one.kept, one.duplicates) == ((0, 0), 1), "it is known all the same"


@within
def test_broadcasts_announced_max(beyond: bool) -> None:
    one = tree("liar", "a", broadcasts_kept_max=4, broadcasts_announced_max=4)
    hear(one, "liar", Ihave(tuple(of("o", 100 + n) for n in range(4 + beyond))))
    assert (one.awaited, one.announcements_refused) == (4, beyond)
    hear(one, "a", Ihave((of("o", 1),)))
    assert one.awaited == 5, "each has room of its own"
    (asked, _) = tick(one, GRAFTED)
    assert asked[0] == "liar"
    hear(one, "liar", Ihave((of("o", 200),)))
    assert one.awaited == 6, "there is room again"
    tick(one, 2 * GRAFTED)
    tick(one, 3 * GRAFTED)
    assert (one.awaited, one.unanswered) == (0, 6)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"overlay_rings": 9}, "overlay_rings=9: expected at most 8"),
        ({"broadcasts_kept_bytes_max": 49_151}, "expected at least broadcast_bytes_max=49152"),
        ({"broadcasts_announced_max": 4095}, "expected at least broadcasts_kept_max=4096"),
        ({"broadcast_window_max": 4095}, "expected at least broadcasts_kept_max=4096"),
    ],
)
def test_limits_that_must_fit_one_another(limits: dict[str, int], said: str) -> None:
    EngineConfig(overlay_rings=8, broadcasts_kept_bytes_max=49_152, broadcasts_announced_max=4096)
    with pytest.raises(ConfigError, match=said):
        EngineConfig(**limits)
