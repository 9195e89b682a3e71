"""Erlang: two nodes of its distribution and plain message passing between them; see erlang_node.erl."""

from __future__ import annotations

import os
from pathlib import Path

from bench.worker import Bench

PROGRAM = Path(__file__).with_suffix("")  # the compiler adds .erl
LOAD = '{ok, M, B} = compile:file("%s", [binary]), {module, M} = code:load_binary(M, "", B), M:main().'


def become_erlang(bench: Bench, role: str) -> None:
    """This process goes on as an Erlang node; its stdin and the pipe for notes stay."""
    task = bench.task
    listens = role in ("receive", "serve")
    numbers = (task.size, task.flight, *task.phases)
    os.dup2(bench.notes_fd, 1)
    options = {
        "-name": f"{'left' if listens else 'right'}@127.0.0.1",
        "-setcookie": "bench",
        "-start_epmd": "false",  # no daemon that would outlive the run
        "-erl_epmd_port": str(task.port),
        "-dist_listen": str(listens).lower(),
        "-eval": LOAD % PROGRAM,
    }
    argv = ["erl", "-noshell", "-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
    argv += [word for option in options.items() for word in option]
    os.execvp("erl", [*argv, "-extra", role, *map(str, numbers)])


def receive(bench: Bench) -> None:
    become_erlang(bench, "receive")


def send(bench: Bench) -> None:
    become_erlang(bench, "send")


def serve(bench: Bench) -> None:
    become_erlang(bench, "serve")


def call(bench: Bench) -> None:
    become_erlang(bench, "call")
