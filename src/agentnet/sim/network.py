"""Connections between simulated hosts: bytes arrive in pieces, late, and what can go wrong with them does.

A Pipe is one direction of a connection.  Like TCP it keeps order and repeats what a broken way has
lost, so a partition delays bytes and loses none; a connection that both sides gave up meanwhile is
gone.  `Weather` can do worse than TCP would: lose, swap, repeat and damage pieces.  What is on its way
is bounded by `Weather.room_bytes`: its writer must pause, as before a full socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from random import Random
from typing import Protocol

from agentnet.sim.clock import Clock

READ_BYTES = 32768
"""What a process reads at a time."""


@dataclass(frozen=True)
class Weather:
    """What the network does to bytes. Delays are drawn for each piece; the shares are chances of a piece.

    ``piece_bytes``: the largest piece that arrives at once. ``lose``, ``swap`` (with the one before),
    ``repeat``, ``flip`` (one bit), ``cut`` (the connection ends there), ``stall`` (lost and sent again
    ``resend_ns`` later, as TCP does: all behind it waits). ``room_bytes``: what a pipe holds before its
    writer must pause.
    """

    delay_ns: tuple[int, int] = (20_000, 200_000)
    piece_bytes: int = READ_BYTES
    lose: float = 0.0
    swap: float = 0.0
    repeat: float = 0.0
    flip: float = 0.0
    cut: float = 0.0
    stall: float = 0.0
    resend_ns: int = 200_000_000
    room_bytes: int = 256 * 1024

    @cached_property
    def is_clear(self) -> bool:
        """Whether nothing happens to pieces but that they take their time."""
        return not (self.lose or self.swap or self.repeat or self.flip or self.cut)


class End(Protocol):
    """What holds one end of a connection."""

    def received(self, data: bytes | memoryview) -> None: ...
    def lost(self, reason: str) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def later(self, pipe: Pipe) -> None:
        """Something has come: call ``pipe.deliver()`` when the process gets to it."""


class Network:
    """Which host reaches which, and every pipe between them."""

    def __init__(self, clock: Clock, weather: Weather) -> None:
        self.clock = clock
        self.weather = weather
        self.weathers: dict[tuple[str, str], Weather] = {}
        """Of one direction between two hosts, where it is another one."""
        self._blocked: dict[tuple[str, str], None] = {}
        self._held: dict[Pipe, None] = {}

    def weather_of(self, source: str, target: str) -> Weather:
        return self.weathers.get((source, target), self.weather) if self.weathers else self.weather

    def delay(self, source: str = "", target: str = "") -> int:
        low, high = self.weather_of(source, target).delay_ns
        return low + int(self.clock.rng.random() * (high - low + 1))

    def block(self, source: str, target: str) -> None:
        """Nothing gets from one host to the other, that way round."""
        self._blocked[source, target] = None

    def partition(self, *groups: Iterable[str]) -> None:
        """Nothing gets from one group to another; who is in none reaches all."""
        for one, other in permutations([list(group) for group in groups], 2):
            for source in one:
                for target in other:
                    self.block(source, target)

    def heal(self) -> None:
        """Every host reaches every other again."""
        self._blocked.clear()
        held, self._held = self._held, {}
        for pipe in held:
            pipe.release()

    def passes(self, source: str, target: str) -> bool:
        return (source, target) not in self._blocked

    def hold(self, pipe: Pipe) -> None:
        self._held[pipe] = None


class Pipe:
    """One direction of a connection: bytes go in, arrive in order in pieces, and then perhaps it ends."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self.network = network
        self.source, self.target = source, target
        self.reader: End
        self.writer: End
        self.mute = False
        """What is written from now on is lost, and so is the end: the host or the network is gone."""
        self.ended = False
        self._pieces: deque[bytes | memoryview | str] = deque()  # the reason comes last
        self._held = 0
        self._last_ns = 0
        self._stuck = 0  # pieces that have come as far as the place where the way is broken

    @property
    def weather(self) -> Weather:
        return self.network.weather_of(self.source, self.target)

    def write(self, data: bytes | memoryview) -> None:
        # A transport may hold the view that it was given until its last byte is gone.
        view, rng, weather = memoryview(data), self.network.clock.rng, self.weather
        while view:
            n = 1 + int(rng.random() * weather.piece_bytes)
            if not weather.is_clear:
                self._put(view[:n], weather, rng)
            elif not (self.ended or self.mute):
                piece = view[:n]
                self._pieces.append(piece)
                self._arrive_later(len(piece))
            view = view[n:]
        if self._held >= weather.room_bytes:
            self.writer.pause()

    def _put(self, piece: memoryview, weather: Weather, rng: Random) -> None:
        if self.ended or self.mute or rng.random() < weather.lose:
            return
        if rng.random() < weather.cut:
            self.ended = True
            clock = self.network.clock
            clock.at(clock.now_ns, self.cut, "connection reset")
            return
        whole: bytes | memoryview = piece
        if rng.random() < weather.flip:
            damaged = bytearray(piece)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            whole = bytes(damaged)
        at = len(self._pieces) - 1 if self._pieces and rng.random() < weather.swap else len(self._pieces)
        self._pieces.insert(at, whole)
        self._arrive_later(len(piece))
        if rng.random() < weather.repeat:
            self._pieces.append(bytes(piece))
            self._arrive_later(len(piece))

    def _arrive_later(self, size: int) -> None:
        clock, weather = self.network.clock, self.weather
        self._held += size
        arrives_ns = clock.now_ns + self.network.delay(self.source, self.target)
        if weather.stall and clock.rng.random() < weather.stall:
            arrives_ns += weather.resend_ns
        self._last_ns = max(self._last_ns, arrives_ns)
        clock.at(self._last_ns, self._arrive)

    def _arrive(self) -> None:
        if not self._pieces:
            return
        if self._stuck or not self.network.passes(self.source, self.target):
            self._stuck += 1
            self.network.hold(self)
        else:
            self.reader.later(self)

    def release(self) -> None:
        """The way is free again, for now: what was held back is sent once more."""
        stuck, self._stuck = self._stuck, 0
        for _ in range(min(stuck, len(self._pieces))):
            self._arrive_later(0)

    def deliver(self) -> None:
        """The reader takes the next piece."""
        if not self._pieces:
            return
        piece = self._pieces.popleft()
        if isinstance(piece, str):
            self.reader.lost(piece)
            return
        self._held -= len(piece)
        if self._held < self.weather.room_bytes // 2:
            self.writer.resume()
        for at in range(0, len(piece), READ_BYTES):
            self.reader.received(piece[at : at + READ_BYTES])

    def end(self, reason: str = "end of stream") -> None:
        """Nothing more will be written; the reader learns it after the last byte."""
        if not (self.ended or self.mute):
            self.ended = True
            self._pieces.append(reason)
            self._arrive_later(0)

    def cut(self, reason: str) -> None:
        """The connection breaks: what is under way is lost, both ends learn it."""
        self.ended = True
        self._pieces.clear()
        self._held = 0
        self.reader.lost(reason)
        self.writer.lost(reason)
