"""Zenoh, peer to peer over TCP: publisher and subscriber with a Python callback, get and queryable."""

from __future__ import annotations

import json
import time

import zenoh

from bench.peers.requests import measure_blocking
from bench.worker import Bench


def session(port: int, *, listen: bool) -> zenoh.Session:
    """One of two peers that know each other by address alone."""
    endpoint = json.dumps([f"tcp/127.0.0.1:{port}"])
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("scouting/gossip/enabled", "false")
    config.insert_json5("listen/endpoints", endpoint if listen else "[]")
    config.insert_json5("connect/endpoints", "[]" if listen else endpoint)
    return zenoh.open(config)


def wait_matching(entity: zenoh.Publisher | zenoh.Querier, seconds: float = 10) -> None:
    """Returns once the other side's declaration has arrived; before, messages go nowhere."""
    deadline = time.monotonic() + seconds
    while not entity.matching_status.matching:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{entity.key_expr}: no match after {seconds:.0f} s")
        time.sleep(0.01)


def receive(bench: Bench) -> None:
    peer = session(bench.task.port, listen=True)
    handler = bench.counter()
    (sink,) = bench.task.sinks
    peer.declare_subscriber(sink, lambda sample: handler(bytes(sample.payload)))
    bench.turn()


def send(bench: Bench) -> None:
    peer = session(bench.task.port, listen=False)
    (sink,) = bench.task.sinks
    publisher = peer.declare_publisher(sink, congestion_control=zenoh.CongestionControl.BLOCK)
    wait_matching(publisher)
    payload = bytes(bench.task.size)
    for count in bench.phases():
        for _ in range(count):
            publisher.put(payload)


def serve(bench: Bench) -> None:
    peer = session(bench.task.port, listen=True)
    (key,) = bench.task.sinks
    peer.declare_queryable(key, lambda query: query.reply(key, bytes(query.payload)))
    bench.turn()


def call(bench: Bench) -> None:
    peer = session(bench.task.port, listen=False)
    (key,) = bench.task.sinks
    querier = peer.declare_querier(key)
    wait_matching(querier)

    def request(payload: bytes) -> bytes:
        (reply,) = querier.get(payload=payload)
        assert reply.ok is not None
        return bytes(reply.ok.payload)

    measure_blocking(bench, request)
