"""The architecture: which rooms there are, in which order, and what may not enter the core.

ROOMS is the list to read. A room is a module; its .py or .pyx, .pxd and .pyi together. It imports
only from steps above its own: nothing below, nothing beside. That counts every import, also inside
a function and under TYPE_CHECKING, for what is hidden there still ties two rooms together.
Where an upper room holds a lower one, it states what it asks of it as a Protocol: the engine of
its control (in outflow.pyi), agents and links of the manager.

agentnet_core is sans-IO: it reads no clock, draws no random number, and starts nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

# One step a line, from the ground up. A package's own name is its door, its __init__.py.
ROOMS = """
agentnet_core.errors agentnet_core.agent_record
agentnet_core.config
agentnet_core.records
agentnet_core.framing
agentnet_core.envelope agentnet_core.slip agentnet_core.lines
agentnet_core.body agentnet_core.message agentnet_core.index agentnet_core.window agentnet_core.entries
agentnet_core.packing
agentnet_core.dots agentnet_core.signing
agentnet_core.clock agentnet_core.tally agentnet_core.member_record
agentnet_core.crdt.ranges agentnet_core.crdt.sequence agentnet_core.roster
agentnet_core.crdt.table agentnet_core.crdt.passage agentnet_core.node
agentnet_core.crdt.wire agentnet_core.crdt.counting
agentnet_core.crdt.base
agentnet_core.crdt.renaming
agentnet_core.crdt.gcounter agentnet_core.crdt.pncounter agentnet_core.crdt.lwwregister
agentnet_core.crdt.mvregister agentnet_core.crdt.ewflag agentnet_core.crdt.orset agentnet_core.crdt.lwwmap
agentnet_core.crdt.text
agentnet_core.crdt.ormap
agentnet_core.crdt
agentnet_core.states
agentnet_core.rounds
agentnet_core.deciding
agentnet_core.parts agentnet_core.quorums
agentnet_core.comparing agentnet_core.doubts agentnet_core.update
agentnet_core.reading
agentnet_core.mailbox agentnet_core.listing agentnet_core.handshake agentnet_core.dials
agentnet_core.gossip agentnet_core.news agentnet_core.chain
agentnet_core.overlay agentnet_core.tree agentnet_core.keepers agentnet_core.lookups
agentnet_core.claims agentnet_core.proofs agentnet_core.placement
agentnet_core.ledger
agentnet_core.directory agentnet_core.confirmations agentnet_core.detector agentnet_core.joining
agentnet_core.census
agentnet_core.membership agentnet_core.registrations agentnet_core.pulls
agentnet_core.session
agentnet_core.liveness agentnet_core.reach agentnet_core.tunnels
agentnet_core.admission
agentnet_core.route
agentnet_core.outflow
agentnet_core.recalls
agentnet_core.letters agentnet_core.calls
agentnet_core.durable
agentnet_core.deeds
agentnet_core.links agentnet_core.port
agentnet_core.casting
agentnet_core.posting
agentnet_core.courier
agentnet_core.reception
agentnet_core.leases
agentnet_core.operations
agentnet_core.freight
agentnet_core.overflow
agentnet_core.streams
agentnet_core.inputs
agentnet_core.engine
agentnet_core.broadcasts agentnet_core.archive agentnet_core.moves
agentnet_core.naming
agentnet_core.absence
agentnet_core.pruning
agentnet_core.catalogue agentnet_core.replication
agentnet_core.views
agentnet_core.control
agentnet_core

agentnet.storage.files
agentnet.storage.memory agentnet.storage.segments
agentnet.storage.snapshots agentnet.storage.owners
agentnet.storage.log agentnet.storage.bounds agentnet.storage.gathering
agentnet.storage
agentnet.sim.clock
agentnet.sim.network agentnet.sim.notary agentnet.sim.disk agentnet.sim.token
agentnet.sim.link
agentnet.sim.node
agentnet.sim.world agentnet.sim.forest
agentnet.sim
agentnet.sim.mail
agentnet.sim.scenarios
agentnet.sim.play
agentnet.config
agentnet.identity agentnet.payload agentnet.certs agentnet.events agentnet.keys
agentnet.transport.base agentnet.authority
agentnet.transport.sockets
agentnet.transport.tcp agentnet.transport.tls agentnet.transport.tunnel
agentnet.transport
agentnet.host
agentnet.keeping agentnet.call
agentnet.dead
agentnet.runner
agentnet.link
agentnet.liveness.packets agentnet.liveness.sealing
agentnet.liveness.responder agentnet.liveness.prober
agentnet.liveness.watchdog
agentnet.liveness.heart
agentnet.liveness.vitals
agentnet.liveness
agentnet.doors
agentnet.streams
agentnet.handlers
agentnet.agent
agentnet.health agentnet.leaving
agentnet.registry agentnet.state
agentnet.syncing
agentnet.manager
agentnet.app
agentnet.testing.loop agentnet.testing.base
agentnet.testing.wires agentnet.testing.relay
agentnet.testing.virtual agentnet.testing.real
agentnet.testing.plugin
agentnet.testing
agentnet
agentnet.demo.words agentnet.tables
agentnet.demo.worker agentnet.demo.coordinator
agentnet.demo.fleet
agentnet.demo
agentnet.demo.show
agentnet.cli
agentnet.__main__
"""
STEPS = [line.split() for line in ROOMS.split("\n") if line.strip()]
STEP = {room: number for number, rooms in enumerate(STEPS) for room in rooms}

# (importer, imported): why it cannot be otherwise.
ALLOWED: dict[tuple[str, str], str] = {}

# Whatever does I/O, reads a clock, draws a random number, or starts a thread or a process.
BANNED_IN_CORE = {
    *("asyncio", "concurrent", "contextvars", "datetime", "io", "multiprocessing", "os", "pathlib", "queue"),
    *("random", "sched", "secrets", "select", "selectors", "signal", "socket", "socketserver", "ssl"),
    *("subprocess", "tempfile", "_thread", "threading", "time", "uuid", "uvloop"),
    *("libc.stdio", "libc.time", "posix", "cpython.time", "cpython.datetime", "cpython.pythread"),
}
BANNED_C_NAMES = {"rand", "srand", "random", "srandom", "getenv", "system"}
BANNED_CALLS = {"hash", "id", "open", "print", "input", "breakpoint", "__import__"}

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70


def room_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*suffixes: str, under: str = "") -> list[Path]:
    return sorted(path for path in (SRC / under).rglob("*") if path.suffix in suffixes)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


def report(breaches: list[str]) -> None:
    assert not breaches, "\n".join(["", *breaches])


# -- reading imports


def strip_cython(text: str) -> str:
    """Blanks comments, and strings of more than one line, and keeps every line where it was."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    text = re.sub(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'', blank, text)
    return re.sub(r"^([^\"'\n#]*)#.*$", r"\1", text, flags=re.MULTILINE)


def absolute(path: Path, module: str, level: int) -> str:
    """The full name of what `path` calls `module`, with `level` leading dots."""
    if not level:
        return module
    package = path.relative_to(SRC).parent.parts
    return ".".join([*package[: len(package) - level + 1], *([module] if module else [])])


CYTHON_IMPORT = re.compile(r"^[ \t]*c?import[ \t]+(?P<modules>[\w., \t]+)", re.MULTILINE)
CYTHON_FROM = re.compile(
    r"^[ \t]*from[ \t]+(?P<dots>\.*)(?P<module>[\w.]*)[ \t]+c?import[ \t]*(?P<names>\([^)]*\)|[^\n]*)",
    re.MULTILINE,
)


def cython_imports(path: Path, text: str) -> Iterator[tuple[int, str, list[str]]]:
    text = strip_cython(text)
    for found in CYTHON_IMPORT.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        for module in found["modules"].split(","):
            yield line, module.split(" as ")[0].strip(), []
    for found in CYTHON_FROM.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        names = [name.split(" as ")[0].strip() for name in found["names"].strip("()").split(",")]
        yield line, absolute(path, found["module"], len(found["dots"])), [name for name in names if name]


def python_imports(path: Path, text: str) -> Iterator[tuple[int, str, list[str]]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield node.lineno, absolute(path, node.module or "", node.level), names


@cache
def imports(path: Path) -> list[tuple[int, str, list[str]]]:
    """Every import and cimport: its line, the module, and the names taken from it."""
    read = python_imports if path.suffix in {".py", ".pyi"} else cython_imports
    return list(read(path, path.read_text(encoding="utf-8")))


def rooms_named(module: str, names: list[str]) -> set[str]:
    """`from package import room` names the room; any other name comes through the package's door."""
    rooms = {f"{module}.{name}" if f"{module}.{name}" in STEP else module for name in names} or {module}
    return {room for room in rooms if room.split(".")[0] in {"agentnet", "agentnet_core"}}


# -- the rooms


def test_every_room_is_listed_and_every_listed_room_stands() -> None:
    standing = {room_of(path) for path in sources(".py", ".pyx")}
    report(
        [
            f"{room} is on no step: add it to ROOMS, below all that it imports"
            for room in sorted(standing - STEP.keys())
        ]
        + [
            f"{room} is in ROOMS, but has no .py or .pyx: take it off"
            for room in STEP
            if room not in standing
        ]
    )


def test_rooms_import_upwards_only() -> None:
    breaches = []
    for path in sources(".py", ".pyi", ".pyx", ".pxd"):
        room = room_of(path)
        for line, module, names in imports(path):
            for other in sorted(rooms_named(module, names)):
                if other == room or (room, other) in ALLOWED or room not in STEP:
                    continue
                if other not in STEP:
                    breaches.append(f"{where(path, line)} imports {other}, which ROOMS does not list")
                elif STEP[other] == STEP[room]:
                    breaches.append(f"{where(path, line)} imports {other}, which stands beside {room}")
                elif STEP[other] > STEP[room]:
                    breaches.append(f"{where(path, line)} imports {other}, which stands below {room}")
    report(breaches)


def test_every_allowed_breach_is_still_there() -> None:
    used = {
        (room_of(path), other)
        for path in sources(".py", ".pyi", ".pyx", ".pxd")
        for _, module, names in imports(path)
        for other in rooms_named(module, names)
    }
    report([f"ALLOWED lists {pair}, which no room uses: take it off" for pair in ALLOWED if pair not in used])


def test_every_cython_room_has_its_door_and_its_stub() -> None:
    report(
        [
            f"{path.relative_to(ROOT).as_posix()} has no {suffix}"
            for path in sources(".pyx")
            for suffix in (".pxd", ".pyi")
            if not path.with_suffix(suffix).exists()
        ]
    )


# -- the core


def test_core_imports_nothing_that_does_io_or_reads_a_clock() -> None:
    breaches = []
    for path in sources(".py", ".pyi", ".pyx", ".pxd", under="agentnet_core"):
        for line, module, names in imports(path):
            parts = module.split(".")
            prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
            members = {f"{module}.{name}" for name in names}
            for banned in sorted((prefixes | members) & BANNED_IN_CORE):
                breaches.append(
                    f"{where(path, line)} names {banned}; time and randomness are arguments of the core"
                )
            if parts[0] == "libc":
                for name in sorted(set(names) & BANNED_C_NAMES):
                    breaches.append(f"{where(path, line)} cimports {name} from {module}")
    report(breaches)


CYTHON_CALL = re.compile(rf"(?<![\w.])(?<!def )({'|'.join(sorted(BANNED_CALLS))})\(")


def test_core_asks_for_no_hash_no_id_and_no_file() -> None:
    """hash() differs between processes, id() between runs: a replay would differ too."""
    breaches = []
    for path in sources(".py", under="agentnet_core"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in BANNED_CALLS
            ):
                breaches.append(f"{where(path, node.lineno)} calls {node.func.id}()")
    for path in sources(".pyx", ".pxd", under="agentnet_core"):
        for number, line in enumerate(strip_cython(path.read_text(encoding="utf-8")).split("\n"), 1):
            breaches += [f"{where(path, number)} calls {found[1]}()" for found in CYTHON_CALL.finditer(line)]
    report(breaches)


def is_set(node: ast.expr | None, known: set[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in known
    return False


def known_sets(tree: ast.AST) -> set[str]:
    """Names that this file annotates as a set or assigns a set to; a set by another route escapes."""
    known: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name), annotation=annotation)
                | ast.arg(arg=name, annotation=ast.expr() as annotation)
            ):
                if re.match(r"(frozen)?set\b|AbstractSet\b", ast.unparse(annotation)):
                    known.add(name)
            case ast.Assign(targets=[ast.Name(id=name) | ast.Attribute(attr=name)], value=value):
                if is_set(value, set()):
                    known.add(name)
    return known


def test_core_iterates_over_no_set() -> None:
    """The order of a set of strings differs between processes. sorted(a_set) is the way."""
    breaches = []
    for path in sources(".py", under="agentnet_core"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = known_sets(tree)
        for node in ast.walk(tree):
            match node:
                case ast.For(iter=over) | ast.comprehension(iter=over) | ast.Starred(value=over):
                    pass
                case ast.Call(func=ast.Name(id="list" | "tuple" | "iter" | "enumerate"), args=[over, *_]):
                    pass
                case _:
                    continue
            if is_set(over, known):
                breaches.append(f"{where(path, over.lineno)} iterates over a set: {ast.unparse(over)}")
    for path in sources(".pyx", under="agentnet_core"):
        text = strip_cython(path.read_text(encoding="utf-8"))
        names = re.findall(r"\bc?def\b.*?\bset (\w+)|cdef (?:readonly |public )?set (\w+)", text)
        for name in {name for pair in names for name in pair if name}:
            for found in re.finditer(rf"\bfor\b[^\n]*\bin (?:self\.)?{name}\s*[:\])]", text):
                line = text.count("\n", 0, found.start()) + 1
                breaches.append(f"{where(path, line)} iterates over a set: {name}")
    report(breaches)


# -- I/O


def test_no_connection_turns_to_tls_after_it_has_spoken() -> None:
    """What came in plaintext before `start_tls` would pass for the words of the certified peer."""
    report(
        [
            f"{where(path, number)} names start_tls; TLS begins with the first byte"
            for path in sources(".py", ".pyi", ".pyx", ".pxd", ".h")
            for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
            if re.search(r"\bstart_tls\b", line)
        ]
    )


# -- size


def test_files_can_be_read_in_one_sitting() -> None:
    breaches = []
    for folder in ("src", "tests", "bench", "tools", "examples"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".h"}:
                lines = path.read_text(encoding="utf-8").count("\n")
                if lines > FILE_LINES_MAX:
                    breaches.append(f"{where(path, 1)} has {lines} lines, at most {FILE_LINES_MAX}")
    report(breaches)


CYTHON_FUNCTION = re.compile(
    r"^(?P<indent> *)(?:async +)?(?:def|cp?def(?! +(?:class|extern|struct|enum))) +(?P<rest>[^=\n]*\(.*)$"
)


def cython_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, line and length of each function, told by indentation alone."""
    lines = strip_cython(text).split("\n")
    for start, line in enumerate(lines):
        header = CYTHON_FUNCTION.match(line)
        if header is None:
            continue
        depth, end, parens = len(header["indent"]), start, 0
        for number in range(start, len(lines)):
            blank = not lines[number].strip()
            indent = len(lines[number]) - len(lines[number].lstrip())
            if number > start and not blank and not parens and indent <= depth:
                break
            parens += lines[number].count("(") - lines[number].count(")")
            end = end if blank else number
        yield header["rest"].split("(")[0].split()[-1], start + 1, end - start + 1


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def test_functions_fit_on_a_screen() -> None:
    breaches = []
    for folder in ("src", "tests", "bench", "tools", "examples"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".pyx"}:
                functions = python_functions if path.suffix == ".py" else cython_functions
                for name, line, length in functions(path.read_text(encoding="utf-8")):
                    if length > FUNCTION_LINES_MAX:
                        breaches.append(
                            f"{where(path, line)} {name} has {length} lines, at most {FUNCTION_LINES_MAX}"
                        )
    report(breaches)


# -- the reading itself: a checker that sees nothing would pass everything


def test_this_file_sees_imports() -> None:
    path = SRC / "agentnet_core" / "example.pyx"
    text = '''
"""Law.

from agentnet_core.engine cimport Engine
"""
import time, struct as s  # import os
from .framing cimport Encoder, Decoder
from agentnet_core cimport (
    message,
    Engine,
)
def f():
    from libc.stdlib cimport rand as r, malloc
    # from random import choice
'''
    assert sorted(cython_imports(path, text)) == [
        (6, "struct", []),
        (6, "time", []),
        (7, "agentnet_core.framing", ["Encoder", "Decoder"]),
        (8, "agentnet_core", ["message", "Engine"]),
        (13, "libc.stdlib", ["rand", "malloc"]),
    ]
    assert rooms_named("agentnet_core", ["message", "Engine"]) == {"agentnet_core.message", "agentnet_core"}
    assert list(python_imports(SRC / "agentnet" / "transport" / "x.py", "from ..link import Link")) == [
        (1, "agentnet.link", ["Link"])
    ]


def test_this_file_sees_sets_and_lengths() -> None:
    tree = ast.parse("class A:\n    x: set[int]\n    def f(self, y: frozenset[str]): z = {1}\n")
    assert known_sets(tree) == {"x", "y", "z"}
    text = """cdef class A:
    cdef int f(
        self,
    ) except -1:
        return 1

        # last
    def g(self): pass
"""
    assert list(cython_functions(text)) == [("f", 2, 4), ("g", 8, 1)]
    assert CYTHON_CALL.search("x = hash(y)")
    assert not CYTHON_CALL.search("x = self.hash(y) + crc_hash(y)")
