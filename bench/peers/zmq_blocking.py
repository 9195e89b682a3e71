"""ZeroMQ with blocking sockets: PUSH/PULL one way, REQ/REP for requests.

No high-water mark, as is usual where speed counts: the sender's queue is then bounded by memory alone.
"""

from __future__ import annotations

import zmq

from bench.peers.requests import measure_blocking
from bench.worker import Bench


def bound(kind: int, port: int) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.bind(f"tcp://127.0.0.1:{port}")
    return socket


def connected(kind: int, port: int) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


def receive(bench: Bench) -> None:
    socket = bound(zmq.PULL, bench.task.port)
    handler = bench.counter()
    bench.tell("ready")
    while True:
        handler(socket.recv())


def send(bench: Bench) -> None:
    socket = connected(zmq.PUSH, bench.task.port)
    payload = bytes(bench.task.size)
    for count in bench.phases():
        for _ in range(count):
            socket.send(payload)


def serve(bench: Bench) -> None:
    socket = bound(zmq.REP, bench.task.port)
    bench.tell("ready")
    while True:
        socket.send(socket.recv())


def call(bench: Bench) -> None:
    socket = connected(zmq.REQ, bench.task.port)

    def request(payload: bytes) -> bytes:
        socket.send(payload)
        return socket.recv()

    measure_blocking(bench, request)
