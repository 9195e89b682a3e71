"""Values to bytes and back: what may be sent beside bytes, and what a handler may declare.

A value is any MessagePack value, a dataclass, a msgspec Struct or a Pydantic model (told by their
shape, never imported here).  It is encoded on the same node too, so that agents share no mutable
object.  Bytes pass as they are.  Never pickle.

Fails with PayloadMismatch, which names agent, field, expected and got: definite, but where it is an
answer that is read.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import msgpack

from agentnet_core.errors import PayloadMismatch
from agentnet_core.message import AgentMessage
from agentnet_core.records import describe

CONTENT_BYTES = 0
CONTENT_MSGPACK = 1


def to_bytes(value: Any) -> tuple[bytes, int]:
    """(bytes, content type) of a payload; PayloadMismatch if it cannot be sent."""
    if type(value) is bytes:
        return value, CONTENT_BYTES
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), CONTENT_BYTES
    try:
        return msgpack.packb(value, default=_plain, use_bin_type=True), CONTENT_MSGPACK
    except (TypeError, ValueError, OverflowError) as error:
        raise PayloadMismatch(
            f"a payload of type {type(value).__qualname__} cannot be sent: {error}; expected bytes, a "
            f"MessagePack value, a dataclass, a msgspec Struct or a Pydantic model"
        ) from None


def _plain(value: Any) -> Any:
    """What MessagePack takes instead of an object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="python")
    raise TypeError(f"{type(value).__qualname__} has no MessagePack form")


class AnswerOf:
    """Whose answer it is, as errors say it; looked up only then, because few answers end in one."""

    __slots__ = ("_agent_id", "_label")

    def __init__(self, agent_id: int, label: Callable[[int], str]) -> None:
        self._agent_id = agent_id
        self._label = label

    def __str__(self) -> str:
        return f"answer of agent {self._label(self._agent_id)}"


def decode(message: AgentMessage, hint: Any, what: object) -> Any:
    """The payload of ``message`` as ``hint`` (None: as it was given); ``what`` says in errors whose it is."""
    if hint is None:
        return message.value
    if hint is bytes:
        if message.is_value:
            raise _mismatch(what, "payload", "bytes", message.value)
        return message.payload
    if not message.is_value:
        raise _mismatch(what, "payload", _name(hint), message.payload)
    try:
        return convert(message.value, hint, what, "payload")
    except PayloadMismatch:
        raise
    except Exception as error:
        # Bytes that are no value, or whatever the type's own code raises.
        reason = f"{type(error).__name__}: {error}"
        raise PayloadMismatch(f"{what}: payload: expected {_name(hint)}: {reason}") from error


def convert(value: Any, hint: Any, what: object, field: str) -> Any:
    """``value``, of MessagePack's types, as ``hint``; PayloadMismatch names the field that does not fit."""
    if hint is Any or hint is None or isinstance(hint, typing.TypeVar):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args, what, field)
    if origin in (list, tuple, dict, set):
        return _convert_collection(value, origin, args, what, field)
    if hasattr(hint, "model_validate"):
        return _by_library(hint.model_validate, value, what, hint)
    if hasattr(hint, "__struct_fields__"):
        # A Struct exists only if its library is loaded.
        return _by_library(lambda v: sys.modules["msgspec"].convert(v, hint), value, what, hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _convert_dataclass(value, hint, what, field)
    if isinstance(hint, type):
        if hint is float and type(value) is int:
            return float(value)
        if hint in (list, tuple, set) and isinstance(value, (list, tuple)):
            return hint(value)
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise _mismatch(what, field, _name(hint), value)
    return value


def _convert_union(value: Any, args: tuple[Any, ...], what: object, field: str) -> Any:
    if value is None and type(None) in args:
        return None
    for arg in args:
        if arg is not type(None):
            try:
                return convert(value, arg, what, field)
            except PayloadMismatch:
                continue
    raise _mismatch(what, field, " or ".join(_name(arg) for arg in args), value)


def _convert_collection(value: Any, origin: type, args: tuple[Any, ...], what: object, field: str) -> Any:
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(what, field, "dict", value)
        key_hint, value_hint = args or (Any, Any)
        return {
            convert(k, key_hint, what, f"{field} key"): convert(
                v, value_hint, what, f"{field}[{describe(k, 20)}]"
            )
            for k, v in value.items()
        }
    if not isinstance(value, (list, tuple)):
        raise _mismatch(what, field, origin.__name__, value)
    if origin is tuple and args and not (len(args) == 2 and args[1] is Ellipsis):
        if len(args) != len(value):
            raise _mismatch(what, field, f"tuple of {len(args)}", value)
        return tuple(
            convert(v, arg, what, f"{field}[{i}]") for i, (v, arg) in enumerate(zip(value, args, strict=True))
        )
    hint = args[0] if args else Any
    return origin(convert(v, hint, what, f"{field}[{i}]") for i, v in enumerate(value))


def _convert_dataclass(value: Any, hint: Any, what: object, field: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(what, field, f"the fields of {_name(hint)}", value)
    known = {f.name: f for f in dataclasses.fields(hint) if f.init}
    for key in value:
        if key not in known:
            raise _mismatch(what, f"{field}.{describe(key, 40)}", f"a field of {_name(hint)}", value[key])
    hints = typing.get_type_hints(hint)
    found = {
        name: convert(value[name], hints[name], what, f"{field}.{name}") for name in known if name in value
    }
    for name, f in known.items():
        if (
            name not in found
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ):
            raise PayloadMismatch(f"{what}: {field}.{name}: expected {_name(hints[name])}, got nothing")
    return hint(**found)


def _by_library(read: Callable[[Any], Any], value: Any, what: object, hint: Any) -> Any:
    try:
        return read(value)
    except (ValueError, TypeError) as error:
        # Both libraries' validation errors are ValueErrors that name the field.
        raise PayloadMismatch(f"{what}: payload: expected {_name(hint)}: {error}") from None


def _mismatch(what: object, field: str, expected: str, got: Any) -> PayloadMismatch:
    return PayloadMismatch(
        f"{what}: {field}: expected {expected}, got {type(got).__name__} {describe(got, 60)}"
    )


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def declared_type(handler: Callable[..., Any]) -> Any:
    """The type that a handler declares for its one argument; None if it takes the AgentMessage itself.

    NameError if the annotation is a text that names no type.
    """
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        return None
    hint = parameters[0].annotation if parameters else inspect.Parameter.empty
    if hint is inspect.Parameter.empty:
        return None
    if isinstance(hint, str):
        if hint.rpartition(".")[2] == "AgentMessage":
            return None  # perhaps imported for type checkers only
        hint = _resolve(hint, handler)
    return None if hint in (AgentMessage, Any, object) else hint


def _resolve(text: str, handler: Any) -> Any:
    """The type that an annotation of ``handler`` says as text."""
    if isinstance(handler, functools.partial):
        handler = handler.func
    if not inspect.isroutine(handler) and not isinstance(handler, type):
        handler = handler.__call__
    handler = inspect.unwrap(getattr(handler, "__func__", handler))
    holder = types.SimpleNamespace(__annotations__={"argument": text})
    return typing.get_type_hints(holder, globalns=getattr(handler, "__globals__", {}))["argument"]
