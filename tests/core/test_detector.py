"""Who is not heard: doubt, accusation, verdict, and what keeps a node from imagining them."""

from __future__ import annotations

import pytest
from memberships import MS, membership, news, silence, told_version, up

from agentnet_core.dials import Dial
from agentnet_core.member_record import NodeRecord, Standing
from agentnet_core.roster import Vouch, encode_members


def test_a_silent_node_is_asked_after_accused_and_lost() -> None:
    one = membership("m")
    for node_id in "abcde":
        up(one, node_id)
    one.drain_news((), 0)
    tick = silence(one, "e")
    tick(2000 * MS - 1)
    assert one.drain_probes() == []
    tick(2000 * MS)
    assert one.drain_probes() == [("a", "e"), ("c", "e"), ("d", "e")]
    for helper in "acd":
        one.vouched(helper, Vouch("e", None), 2001 * MS)
    tick(2001 * MS)
    assert news(one)[None][0].accusers == ("m",)
    one.learn(encode_members([NodeRecord("e", 1, ("tcp://e:1",), accusers=("a", "b"))])[0], 2002 * MS, "a")
    tick(3501 * MS - 1)
    assert one.living("e") is not None
    tick(3501 * MS)
    assert one.living("e") is None
    assert one.drain_events()[-1].detail == "silent for 3501 ms, also to a, b, m"
    assert news(one)[None][0].standing is Standing.LOST


def test_one_accuser_is_not_enough_where_others_could_accuse() -> None:
    one = membership("m")
    for node_id in "ab":
        up(one, node_id)
    tick = silence(one, "b")
    tick(2000 * MS)
    one.vouched("a", Vouch("b", None), 2001 * MS)
    for now in range(2001, 60_000, 250):
        tick(now * MS)
    assert one.living("b") is not None
    one.learn(encode_members([NodeRecord("b", 1, (), accusers=("a",))])[0], 60_000 * MS, "a")
    tick(60_000 * MS)
    assert one.living("b") is None


def test_whom_a_helper_hears_is_not_accused_until_that_is_old() -> None:
    one = membership("m")
    for node_id in "ab":
        up(one, node_id)
    one.drain_news((), 0)
    tick = silence(one, "b")
    tick(2000 * MS)
    assert one.drain_probes() == [("a", "b")]
    one.vouched("a", Vouch("b", 500), 2001 * MS)
    tick(2001 * MS)
    assert one.next_deadline_ns() == 3501 * MS
    tick(3501 * MS)
    assert one.drain_probes() == [("a", "b")]
    assert news(one) == {}


def test_who_cleared_itself_is_not_doubted_again_at_once() -> None:
    """Else a node that some hear and some do not is accused and clears itself as fast as news travel."""
    one = membership("m")
    for node_id in "ab":
        up(one, node_id)
    one.drain_news((), 0)
    tick = silence(one, "b")
    tick(2000 * MS)
    one.vouched("a", Vouch("b", None), 2001 * MS)
    tick(2001 * MS)
    assert news(one)[None][0].accusers == ("m",)
    one.drain_probes()
    one.learn(told_version("b", 1), 2010 * MS, "a")
    one.drain_news((), 0)
    for now in range(2010, 4010, 100):
        tick(now * MS)
        assert one.drain_probes() == []
        assert news(one) == {}
    tick(4010 * MS)
    assert one.drain_probes() == [("a", "b")]


def test_two_witnesses_are_proof() -> None:
    one = membership("m")
    for node_id in "ab":
        up(one, node_id)
    one.drain_news((), 0)
    one.tick(10)
    one.link_down("b", 10, hung_up=True)
    (dial,) = one.tick(10)
    assert dial == Dial("tcp://b:1", "b"), "at once"
    one.dial_failed(dial, "refused", 20, refused=True)
    one.tick(20)
    assert news(one)[None][0].witnesses == ("m",)
    assert one.living("b") is not None
    one.learn(
        encode_members([NodeRecord("b", 1, ("tcp://b:1",), accusers=("a",), witnesses=("a",))])[0], 30, "a"
    )
    one.tick(30)
    assert one.living("b") is None
    assert "its process ended, as a, m saw" in one.drain_events()[-1].detail


def test_a_refused_dial_alone_proves_nothing() -> None:
    one = membership("m")
    for node_id in "ab":
        up(one, node_id)
    one.drain_news((), 0)
    one.link_down("b", 10)
    (dial,) = one.tick(100 * MS)
    one.dial_failed(dial, "refused", 100 * MS, refused=True)
    assert news(one) == {}


@pytest.mark.parametrize("stood_ms", [999, 1_000])
def test_a_short_stand_is_made_good_and_no_more(stood_ms: int) -> None:
    one = membership("m")
    for node_id in "abc":
        up(one, node_id)
    one.stood_still(60_000 * MS, stood_ms * MS)
    silent = {"a": 57_500 * MS}
    one.tick(60_000 * MS, lambda node_id: silent.get(node_id, 60_000 * MS))
    assert one.drain_probes() == []
    sure_ms = 60_000 + stood_ms
    one.tick(sure_ms * MS - 1, lambda node_id: silent.get(node_id, 60_000 * MS))
    assert one.drain_probes() == []
    one.tick(sure_ms * MS, lambda node_id: silent.get(node_id, 60_000 * MS))
    asked = sorted(one.drain_probes())
    assert asked == ([("b", "a"), ("c", "a")] if stood_ms < 1_000 else []), "longer ones stretch its times"


def test_a_node_that_stood_still_accuses_nobody_for_a_while() -> None:
    one = membership("m")
    for node_id in "abc":
        up(one, node_id)
    one.drain_news((), 0)
    one.stood_still(60_000 * MS, 58_000 * MS)
    one.tick(60_000 * MS, lambda _: 50_000 * MS)
    assert one.drain_probes() == []
    assert news(one) == {}
    assert one.next_deadline_ns() == 62_000 * MS
    one.tick(62_000 * MS, lambda _: 60_000 * MS)
    assert one.next_deadline_ns() == 62_000 * MS + 2_000 * MS, "its own times are stretched, for a while"
