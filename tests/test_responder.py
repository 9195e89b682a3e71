"""The native thread that answers liveness probes: what it says, to whom, and that it ends."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import blake2s
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import open_files

from agentnet.liveness import packets, watchdog
from agentnet.liveness.packets import Answer, make_probe, make_ticket, nonce_of, read_answer
from agentnet.liveness.responder import Pulse, is_running
from agentnet_core.errors import LimitReached

MS = 1_000_000
SECONDS = 20.0


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)
    return result


class Answering:
    """A node as the native thread knows it. ``ask`` gives what it answers, None if it does not."""

    def __init__(self, *, lag_ms_max: float = 60_000, host: str = "127.0.0.1", incarnation: int = 7) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.udp, self.tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family)
        for sock in (self.udp, self.tcp):
            sock.bind((host, 0))
            sock.setblocking(False)
        self.tcp.listen(16)
        self.secret = os.urandom(32)
        self.ticket = make_ticket(self.secret, os.urandom(16))
        lag_ns_max = int(lag_ms_max * MS)
        self.pulse = Pulse(self.udp.fileno(), self.tcp.fileno(), self.secret, incarnation, lag_ns_max)
        self.asker = socket.socket(family, socket.SOCK_DGRAM)
        self.asker.settimeout(SECONDS)

    def send(self, data: bytes) -> None:
        self.asker.sendto(data, self.udp.getsockname())

    def ask(self, ticket: bytes | None = None) -> Answer | None:
        nonce = os.urandom(16)
        self.send(make_probe(ticket or self.ticket, nonce))
        while nonce_of(data := self.asker.recv(2000)) != nonce:
            pass  # the answer to an earlier one
        return read_answer(ticket or self.ticket, data)

    def ask_tcp(self, data: bytes) -> bytes:
        with socket.create_connection(self.tcp.getsockname()[:2], timeout=SECONDS) as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(2000), b""))

    def said(self, state: Callable[[Answer], Any]) -> Answer:
        """An answer of which ``state`` holds."""

        def asked() -> Answer | None:
            answer = self.ask()
            return answer if answer is not None and state(answer) else None

        answer: Answer = wait_for(asked)
        return answer

    def close(self) -> None:
        self.pulse.close()
        for sock in (self.udp, self.tcp, self.asker):
            sock.close()


@pytest.fixture
def node() -> Iterator[Answering]:
    files = open_files()
    made = Answering()
    yield made
    made.close()
    assert not is_running()
    assert open_files() == files


def test_it_answers_by_udp_and_by_tcp(node: Answering) -> None:
    answer = node.ask()
    assert answer is not None
    assert (answer.incarnation, answer.stack) == (7, "")
    assert 0 <= answer.lag_ns < SECONDS * 1e9
    nonce = os.urandom(16)
    data = node.ask_tcp(make_probe(node.ticket, nonce))
    assert nonce_of(data) == nonce
    assert read_answer(node.ticket, data) is not None
    assert node.pulse.counts() == (2, 0)


def test_it_answers_over_ipv6() -> None:
    try:
        node = Answering(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert node.ask() is not None
    node.close()


def test_each_link_has_its_own_key(node: Answering) -> None:
    one, other = (make_ticket(node.secret, os.urandom(16)) for _ in range(2))
    assert node.ask(one) is not None
    nonce = os.urandom(16)
    node.send(make_probe(one, nonce))
    assert read_answer(other, node.asker.recv(2000)) is None


def test_a_probe_that_is_not_sealed_gets_no_answer(node: Answering) -> None:
    probe = make_probe(node.ticket, os.urandom(16))
    forged = make_probe(os.urandom(48), os.urandom(16))
    bad = [
        b"",
        b"\0",
        forged,
        probe[:-1],
        probe + b"\0",
        bytes(1200),
        os.urandom(1200),
        os.urandom(60_000),
        b"anp2" + probe[4:],
    ]
    for at in range(4, 52):  # each byte of salt, nonce and seal
        bad.append(probe[:at] + bytes([probe[at] ^ 1]) + probe[at + 1 :])
    for data in bad:
        node.send(data)
    wait_for(lambda: node.pulse.counts()[1] == len(bad))
    assert node.ask() is not None  # and that is the first that came back
    assert node.pulse.counts() == (1, len(bad))
    assert node.ask_tcp(forged) == b""


def test_an_answer_is_never_longer_than_its_probe(node: Answering) -> None:
    blocked = Answering(lag_ms_max=1)
    wait_for(lambda: blocked.ask() and blocked.ask().lag_ns > 10 * MS)  # type: ignore[union-attr]
    blocked.pulse.describe(bytes(range(32, 127)) * 40)
    blocked.send(make_probe(blocked.ticket, bytes(16)))
    data = blocked.asker.recv(2000)
    blocked.close()
    assert 1024 < len(data) <= len(make_probe(node.ticket, bytes(16))) == 1200


@given(stack=st.binary(max_size=1024), incarnation=st.integers(0, 2**64 - 1))
def test_both_forms_of_seal_and_veil_agree(stack: bytes, incarnation: int) -> None:
    """Python's BLAKE2s reads what the thread's own has written, of every length."""
    node = Answering(lag_ms_max=0.001, incarnation=incarnation)
    try:
        wait_for(lambda: node.ask() and node.pulse.counts()[0])
        wait_for(lambda: describes(node, stack))
        answer = node.ask()
        assert answer is not None
        assert (answer.incarnation, answer.stack) == (incarnation, stack.decode("utf-8", "replace"))
    finally:
        node.close()


def describes(node: Answering, stack: bytes) -> bool:
    """Whether the thread takes this stack; it does once it has seen that the loop stands."""
    node.pulse.describe(stack)
    answer = node.ask()
    return answer is not None and (not stack or answer.stack == stack.decode("utf-8", "replace"))


def test_a_changed_answer_is_not_believed(node: Answering) -> None:
    node.send(make_probe(node.ticket, bytes(16)))
    data = node.asker.recv(2000)
    assert read_answer(node.ticket, data) is not None
    for at in range(len(data)):
        assert read_answer(node.ticket, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
    for size in range(len(data)):
        assert read_answer(node.ticket, data[:size]) is None
    assert read_answer(node.ticket, data + b"\0") is None
    assert read_answer(node.ticket, b"") is None


def test_what_a_node_does_is_not_read_from_the_wire(node: Answering) -> None:
    blocked = Answering(lag_ms_max=0.001)
    wait_for(lambda: describes(blocked, b"secret_function"))
    seen = set()
    for _ in range(20):
        blocked.send(make_probe(blocked.ticket, bytes(16)))  # the same probe, as if it were repeated
        seen.add(blocked.asker.recv(2000)[28:43])
    blocked.close()
    assert len(seen) == 20
    assert not any(b"secret" in data for data in seen)


def test_the_lag_is_told_until_the_loop_turns_again() -> None:
    node = Answering(lag_ms_max=50)
    assert node.pulse.beat() is None
    standing = node.said(lambda answer: answer.lag_ns > 300 * MS and answer.stack)
    assert standing.stack == packets.LOCKED_TEXT  # nobody has looked
    node.pulse.describe(b"here")
    assert node.said(lambda answer: answer.stack == "here").lag_ns > 300 * MS
    lag_ns, state, stack = node.pulse.beat() or (0, 0, b"")
    assert (lag_ns > 300 * MS, state, stack) == (True, packets.STACK, b"here")
    after = node.ask()
    node.close()
    assert after is not None
    assert after.stack != "here"


def test_the_stack_is_seen_without_the_loop() -> None:
    node = Answering(lag_ms_max=20)
    released = threading.Event()

    def stand_here() -> None:
        watchdog.watch(lambda: node.pulse, ())
        released.wait(SECONDS)
        watchdog.unwatch(node.pulse)

    thread = threading.Thread(target=stand_here)
    thread.start()
    answer = node.said(lambda answer: "stand_here" in answer.stack)
    assert "threading.py" in answer.stack.splitlines()[-1]
    released.set()
    thread.join()
    node.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "agentnet-watchdog"]


def test_many_probes_and_many_nodes() -> None:
    nodes = [Answering(incarnation=number) for number in range(20)]
    for _ in range(50):
        for node in nodes:
            node.send(make_probe(node.ticket, os.urandom(16)))
    for number, node in enumerate(nodes):
        answer = read_answer(node.ticket, node.asker.recv(2000))
        assert answer is not None
        assert answer.incarnation == number
    for node in nodes[::2]:
        node.close()
    assert nodes[1].ask() is not None
    for node in nodes[1::2]:
        node.close()
    assert not is_running()


def test_connections_are_bounded_and_do_not_stay(node: Answering) -> None:
    silent = [socket.create_connection(node.tcp.getsockname(), timeout=SECONDS) for _ in range(80)]
    nonce = os.urandom(16)
    assert nonce_of(node.ask_tcp(make_probe(node.ticket, nonce))) == nonce
    silent[-1].sendall(b"\0" * 100)
    for sock in silent:  # the oldest for those that came after, the last ones for being silent
        assert sock.recv(1) == b""
        sock.close()


def test_nodes_of_one_process_are_bounded(node: Answering) -> None:
    more = [
        Pulse(node.udp.fileno(), node.tcp.fileno(), node.secret, number, SECONDS * 10**9)
        for number in range(255)
    ]
    with pytest.raises(LimitReached, match="256 nodes"):
        Pulse(node.udp.fileno(), node.tcp.fileno(), node.secret, 1, MS)
    for pulse in more:
        pulse.close()
        pulse.close()
    assert node.ask() is not None


def test_a_pulse_that_is_forgotten_is_closed(node: Answering) -> None:
    other = Pulse(node.udp.fileno(), node.tcp.fileno(), node.secret, 1, MS)
    assert other.number > node.pulse.number
    assert node.secret.hex() not in repr(other)
    del other
    assert node.ask() is not None
    with pytest.raises(ValueError, match="expected 32"):
        Pulse(0, 0, b"short", 1, 1)


CHILD = """
import os, sys, threading
sys.path[:0] = {path!r}
from test_responder import Answering, watchdog, is_running
node = Answering()
watchdog.watch(lambda: node.pulse, (node.udp, node.tcp))
pid = os.fork()
if pid == 0:
    try:
        assert not is_running()
        assert node.udp.fileno() == node.tcp.fileno() == -1
        assert node.pulse.beat() is None
        watchdog.unwatch(node.pulse)
        other = Answering(incarnation=8)
        watchdog.watch(lambda: other.pulse, (other.udp, other.tcp))
        assert other.ask().incarnation == 8
        watchdog.unwatch(other.pulse)
        assert not is_running()
        os._exit(0)
    finally:
        os._exit(1)
assert node.ask().incarnation == 7
assert os.waitpid(pid, 0)[1] == 0
assert node.ask().incarnation == 7
watchdog.unwatch(node.pulse)
assert threading.active_count() == 1 and not is_running()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_no_thread_and_may_have_nodes_of_its_own() -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD.format(path=sys.path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_head_of_an_answer_is_what_the_law_says(node: Answering) -> None:
    """Read by hand, from the words at the head of `packets`."""
    salt, nonce = bytes(range(16)), bytes(range(16, 32))
    ticket = make_ticket(node.secret, salt)
    key = blake2s(b"\0" + salt, key=node.secret, digest_size=32).digest()
    assert ticket == salt + key
    node.send(make_probe(ticket, nonce))
    data = node.asker.recv(2000)
    assert data[:20] == b"ana1" + nonce
    veil = blake2s(b"\x03" + data[20:28] + bytes(4), key=key).digest()
    plain = bytes(a ^ b for a, b in zip(data[28:45], veil[:17], strict=True))
    assert struct.unpack(">QQB", plain)[0::2] == (7, 0)
