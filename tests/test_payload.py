"""Payloads: values there and back, as the types that handlers and callers declare, or a named mismatch."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import msgpack
import pytest
from networks import Cluster, soon

from agentnet import AgentMessage, ConfigError, PayloadMismatch
from agentnet.payload import convert, declared_type, decode, to_bytes

if TYPE_CHECKING:
    from agentnet import AgentMessage as Only

try:
    import msgspec
except ImportError:  # an extra
    msgspec = None
try:
    import pydantic
except ImportError:  # an extra
    pydantic = None


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Line:
    name: str
    points: list[Point]
    label: str | None = None
    extra: dict[str, float] = field(default_factory=dict)


LINE = Line("l", [Point(1, 2), Point(3)], extra={"w": 1.5})


def given_as(value: Any) -> AgentMessage:
    """The message that carries ``value``."""
    body, content = to_bytes(value)
    message = AgentMessage(body)
    if content:
        data = msgpack.packb([0, 1, 1, 0, 1, 1, 0, 0, body]) + msgpack.packb({14: content})
        message = AgentMessage.decode(data)
    return message


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [None, True, 0, -(2**63), 2**64 - 1, 1.5, "ü", "", [], [1, [2]], {}, {"a": {1: b"x"}}, b"", b"bytes"],
    )
    def test_there_and_back(self, value: Any) -> None:
        message = given_as(value)
        assert decode(message, None, "x") == value
        assert type(decode(message, None, "x")) is type(value)

    def test_objects_go_as_maps(self) -> None:
        assert given_as(LINE).value == {
            "name": "l",
            "points": [{"x": 1, "y": 2}, {"x": 3, "y": 0}],
            "label": None,
            "extra": {"w": 1.5},
        }

    def test_bytes_like(self) -> None:
        class Sub(bytes):
            pass

        for value in (bytearray(b"ab"), memoryview(b"ab"), memoryview(b"a-b-")[::2], Sub(b"ab")):
            body, content = to_bytes(value)
            assert (type(body), content) == (bytes, 0)
            assert body in (b"ab",)

    @pytest.mark.parametrize(
        "value",
        [
            object(),
            {1, 2},
            1 + 2j,
            2**64,
            -(2**63) - 1,
            "\ud800",
            enum.Enum("E", "A").A,
            {"deep": [object()]},
            Point,
            lambda: None,
        ],
    )
    def test_what_cannot_be_sent(self, value: Any) -> None:
        with pytest.raises(PayloadMismatch, match="cannot be sent") as caught:
            to_bytes(value)
        assert caught.value.definite

    def test_a_value_without_end(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(PayloadMismatch):
            to_bytes(value)
        deep: Any = 1
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(PayloadMismatch):
            to_bytes(deep)


class TestConvert:
    @pytest.mark.parametrize(
        ("value", "hint", "expected"),
        [
            (1, int, 1),
            (1, float, 1.0),
            ("a", str, "a"),
            ([1, 2], list, [1, 2]),
            ([1, 2], tuple, (1, 2)),
            ([1, 2], list[int], [1, 2]),
            ([1, "a"], tuple[int, str], (1, "a")),
            ([1, 2], tuple[int, ...], (1, 2)),
            ([1, 2, 2], set[int], {1, 2}),
            ({"a": 1}, dict[str, int], {"a": 1}),
            ({1: ["x"]}, dict[int, list[str]], {1: ["x"]}),
            (None, int | None, None),
            (5, int | None, 5),
            ("a", int | str, "a"),
            (None, Optional[str], None),  # noqa: UP045 - the older spelling is in use
            ({"x": 1}, Point, Point(1, 0)),
            ({"x": 1}, dict, {"x": 1}),
            (b"x", bytes, b"x"),
            (3, Any, 3),
        ],
    )
    def test_what_fits(self, value: Any, hint: Any, expected: Any) -> None:
        found = convert(value, hint, "agent x", "payload")
        assert found == expected
        assert type(found) is type(expected)

    @pytest.mark.parametrize(
        ("value", "hint", "text"),
        [
            ("a", int, "agent x: payload: expected int, got str 'a'"),
            (True, int, "expected int, got bool True"),
            (1.0, int, "expected int, got float 1.0"),
            (1, str, "expected str, got int 1"),
            ({"a": 1}, list[int], "expected list, got dict"),
            ([1, "a"], list[int], "payload[1]: expected int, got str 'a'"),
            ([1], tuple[int, str], "expected tuple of 2, got list [1]"),
            ({"a": "b"}, dict[str, int], "payload['a']: expected int, got str 'b'"),
            ({1: 1}, dict[str, int], "payload key: expected str, got int 1"),
            ("a", int | None, "expected int or NoneType, got str"),
            ([], Point, "expected the fields of Point, got list []"),
            ({"x": "a"}, Point, "payload.x: expected int, got str 'a'"),
            ({"y": 1}, Point, "payload.x: expected int, got nothing"),
            ({"x": 1, "z": 2}, Point, "payload.'z': expected a field of Point, got int 2"),
            (
                {"name": "l", "points": [{"x": 1}, {"x": []}]},
                Line,
                "payload.points[1].x: expected int, got list",
            ),
            (b"x", str, "expected str, got bytes"),
        ],
    )
    def test_what_does_not(self, value: Any, hint: Any, text: str) -> None:
        with pytest.raises(PayloadMismatch) as caught:
            convert(value, hint, "agent x", "payload")
        assert text in str(caught.value)
        assert caught.value.definite

    def test_bytes_are_no_value_and_a_value_no_bytes(self) -> None:
        assert decode(given_as(b"raw"), bytes, "x") == b"raw"
        with pytest.raises(PayloadMismatch, match="expected bytes, got int 1"):
            decode(given_as(1), bytes, "x")
        with pytest.raises(PayloadMismatch, match="expected Point, got bytes"):
            decode(given_as(b"raw"), Point, "x")

    @pytest.mark.parametrize("body", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 2000, b"\x01\x02"])
    def test_bytes_that_say_they_are_a_value(self, body: bytes) -> None:
        data = msgpack.packb([0, 1, 1, 0, 1, 1, 0, 0, body]) + msgpack.packb({14: 1})
        with pytest.raises(PayloadMismatch, match="agent x: payload: expected int: ProtocolError"):
            decode(AgentMessage.decode(data), int, "agent x")

    def test_a_long_value_is_shown_short(self) -> None:
        with pytest.raises(PayloadMismatch) as caught:
            convert("\x1b[31m" + "a" * 10_000, int, "x", "payload")
        assert len(str(caught.value)) < 200
        assert "\x1b" not in str(caught.value)


class TestDeclaredType:
    def test_none_for_the_message_itself(self) -> None:
        async def plain(message): ...
        async def typed(message: AgentMessage) -> None: ...
        async def any_(message: Any) -> None: ...
        async def nothing() -> None: ...
        async def only(message: Only) -> None: ...

        for handler in (plain, typed, any_, nothing, len):
            assert declared_type(handler) is None
        only.__annotations__["message"] = "api.AgentMessage"
        assert declared_type(only) is None

    def test_what_is_declared(self) -> None:
        async def point(point: Point) -> None: ...
        async def numbers(numbers: list[int], more: str = "") -> None: ...
        def plain(value: dict[str, int] | None) -> Point: ...

        class Callable_:
            async def __call__(self, point: Point) -> None: ...
            async def method(self, line: Line) -> None: ...

        def with_option(option: str, point: Point) -> None: ...

        @functools.wraps(point)
        async def wrapped(*args: Any) -> None: ...

        expected: list[tuple[Callable[..., Any], Any]] = [
            (point, Point),
            (numbers, list[int]),
            (plain, dict[str, int] | None),
            (Callable_(), Point),
            (Callable_().method, Line),
            (functools.partial(with_option, "o"), Point),
            (wrapped, Point),
        ]
        for handler, hint in expected:
            assert declared_type(handler) == hint

    def test_a_name_that_means_nothing(self) -> None:
        async def handler(job: Unknown) -> None: ...  # noqa: F821

        with pytest.raises(NameError, match="Unknown"):
            declared_type(handler)

    def test_only_the_argument_counts(self) -> None:
        async def handler(point: Point) -> Unknown: ...  # noqa: F821

        assert declared_type(handler) is Point


class TestBetweenAgents:
    async def test_typed_there_and_back(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")

        async def mirror(line: Line) -> Line:
            assert type(line.points[0]) is Point
            return Line(line.name.upper(), line.points[::-1])

        def in_a_thread(point: Point) -> int:
            return point.x + point.y

        await two.register_agent("mirror", handler=mirror)
        await two.register_agent("sum", handler=in_a_thread)
        for net in (one, two):
            answer = await soon(net.request("mirror", LINE, reply=Line))
            assert answer == Line("L", [Point(3), Point(1, 2)])
            assert (await soon(net.request("mirror", LINE)))["name"] == "L"
            assert await soon(net.request("sum", {"x": 2, "y": 3}, reply=int)) == 5

    async def test_a_mismatch_names_agent_field_expected_and_got(self, cluster: Cluster) -> None:
        one, two = await cluster.start("n1", "n2")
        called = []

        async def handler(point: Point) -> str:
            called.append(point)
            return "text"

        await two.register_agent("typed", handler=handler)
        for net in (one, two):
            with pytest.raises(PayloadMismatch) as caught:
                await soon(net.request("typed", {"x": "no"}))
            assert str(caught.value) == "agent typed: payload.x: expected int, got str 'no'"
            assert caught.value.definite
        assert called == []
        with pytest.raises(PayloadMismatch, match="answer of agent .*: expected int, got str 'text'"):
            await soon(one.request("typed", Point(1), reply=int))
        assert len(called) == 1
        assert two.stats()["handlers_failed"] == 2

    async def test_a_type_that_cannot_be_found(self, cluster: Cluster) -> None:
        (net,) = await cluster.start("n1")

        async def handler(job: Unknown) -> None: ...  # noqa: F821

        with pytest.raises(
            ConfigError, match="agent x: the type of the argument of .*'Unknown' is not defined"
        ):
            await net.register_agent("x", handler=handler)

    @pytest.mark.skipif(msgspec is None, reason="needs msgspec")
    async def test_msgspec(self, cluster: Cluster) -> None:
        class Job(msgspec.Struct):
            name: str
            parts: list[int]

        async def work(job):
            assert type(job) is Job
            return Job(job.name * 2, [sum(job.parts)])

        work.__annotations__["job"] = Job
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("work", handler=work)
        answer = await soon(one.request("work", Job("a", [1, 2]), reply=Job))
        assert answer == Job("aa", [3])
        with pytest.raises(PayloadMismatch, match=r"agent work: payload: expected Job: .*\$.parts\[0\]"):
            await soon(one.request("work", {"name": "a", "parts": ["x"]}))

    @pytest.mark.skipif(pydantic is None, reason="needs pydantic")
    async def test_pydantic(self, cluster: Cluster) -> None:
        class Job(pydantic.BaseModel):
            name: str
            parts: list[int] = pydantic.Field(max_length=3)

        async def work(job):
            assert type(job) is Job
            return Job(name=job.name * 2, parts=[sum(job.parts)])

        work.__annotations__["job"] = Job
        one, two = await cluster.start("n1", "n2")
        await two.register_agent("work", handler=work)
        answer = await soon(one.request("work", Job(name="a", parts=[1, 2]), reply=Job))
        assert answer == Job(name="aa", parts=[3])
        with pytest.raises(PayloadMismatch, match="agent work: payload: expected Job: (?s:.*)parts"):
            await soon(one.request("work", {"name": "a", "parts": [1, 2, 3, 4]}))
