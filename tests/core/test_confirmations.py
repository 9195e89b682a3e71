"""Which versions of the own list wait for whom."""

from __future__ import annotations

import pytest

from agentnet_core.config import EngineConfig
from agentnet_core.confirmations import Confirmations, Settled
from agentnet_core.errors import ProtocolError
from agentnet_core.listing import Confirm

CONFIG = EngineConfig()


def confirm(version: int, last: bool = True, conflicts: tuple[tuple[int, str], ...] = ()) -> Confirm:
    return Confirm("a", 1, version, last, conflicts)


def test_a_version_settles_when_all_have_confirmed_it_or_a_later_one() -> None:
    waiting = Confirmations(CONFIG)
    assert waiting.expect(1, []) == [Settled(1)]
    assert waiting.expect(2, ["b", "c", "b"], [20]) == []
    assert waiting.expect(3, ["b", "c"], [30]) == []
    assert waiting.missing(3) == ["b", "c"]
    assert waiting.confirm("b", confirm(2)) == []
    assert waiting.missing(2) == ["c"]
    assert waiting.missing(3) == ["b", "c"]
    assert waiting.confirm("c", confirm(3)) == [Settled(2, (20,))]
    assert waiting.confirm("b", confirm(3)) == [Settled(3, (30,))]
    assert waiting.missing(3) == []
    assert waiting.confirm("x", confirm(3)) == []


def test_conflicts_come_with_the_version_whose_agents_they_are() -> None:
    waiting = Confirmations(CONFIG)
    waiting.expect(1, ["b", "c"], [10, 11])
    waiting.expect(2, ["b", "c"], [20])
    assert waiting.confirm("c", confirm(2, False, ((20, "c"),))) == []
    assert waiting.confirm("c", confirm(2, True, ((10, ""), (11, "hearsay"), (99, "c")))) == []
    assert waiting.confirm("b", confirm(2)) == [
        Settled(1, (10, 11), ((10, "", "c"),)),
        Settled(2, (20,), ((20, "c", "c"),)),
    ]


def test_a_lost_node_is_waited_for_no_more() -> None:
    waiting = Confirmations(CONFIG)
    waiting.expect(1, ["b", "c"])
    waiting.expect(2, ["b"])
    waiting.confirm("b", confirm(1, False, ((1, "b"),)))
    assert waiting.lost("b") == [Settled(2)]
    assert waiting.missing(1) == ["c"]
    waiting.expect(3, ["b", "c"])
    assert waiting.missing(1) == ["c"], "it is back, and asks for the list"
    assert waiting.confirm("c", confirm(1)) == [Settled(1)]
    assert waiting.lost("nobody") == []


def test_what_was_confirmed_is_not_waited_for_again() -> None:
    waiting = Confirmations(CONFIG)
    waiting.confirm("b", confirm(4))
    assert waiting.expect(4, ["b"], [1]) == [Settled(4, (1,))]
    assert waiting.expect(5, ["b"], [2]) == []
    assert waiting.expect(5, ["b"], [3]) == []
    assert waiting.confirm("b", confirm(5)) == [Settled(5, (2, 3))]
    waiting.lost("b")
    assert waiting.expect(5, ["b"]) == []


def test_a_dropped_version_leaves_nothing_behind() -> None:
    waiting = Confirmations(CONFIG)
    for version in range(1, 100):
        waiting.expect(version, ["b", "c"])
        waiting.drop(version)
        waiting.drop(version)
    assert waiting.missing(50) == []
    assert not waiting._waiting
    assert not any(waiting._expected.values())
    assert waiting.confirm("b", confirm(99)) == []


def test_endless_conflicts_are_refused() -> None:
    waiting = Confirmations(EngineConfig(agents_max=3))
    waiting.confirm("b", confirm(1, False, ((1, "b"), (2, "b"))))
    with pytest.raises(ProtocolError, match="CONFIRM conflicts: expected at most 3, got 4"):
        waiting.confirm("b", confirm(1, False, ((3, "b"), (4, "b"))))


def test_more_nodes_may_be_waited_for_in_the_stead_of_one() -> None:
    waiting = Confirmations(CONFIG)
    waiting.expect(1, ["b"], [10])
    waiting.expect(2, ["b", "c"], [20])
    assert waiting.awaits("b") == [(1, (10,)), (2, (20,))]
    assert waiting.awaits("c") == [(2, (20,))]
    assert waiting.awaits("d") == []
    assert waiting.extend(2, ["c", "d"]) == ["d"]
    assert waiting.extend(1, ["d"]) == ["d"]
    assert waiting.lost("b") == []
    assert waiting.missing(2) == ["c", "d"]
    assert waiting.confirm("d", confirm(1)) == [Settled(1, (10,))]
    assert waiting.confirm("d", confirm(2)) == []
    assert waiting.confirm("c", confirm(2)) == [Settled(2, (20,))]
    waiting.expect(3, ["c"])
    assert waiting.extend(3, ["d"]) == ["d"]
    assert waiting.awaits("d") == [(3, ())]
