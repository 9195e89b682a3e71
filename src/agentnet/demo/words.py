"""Files in, words out: what the demo's agents do to the bytes that they are sent, and where those come from.

A file is read in pieces of at most PIECE_BYTES that end with a line where they can, so that each can be
counted alone and in any order. Words are runs of letters, in lower case, an apostrophe inside allowed.
Only UTF-8 text is counted: NotText says what else it is. OSError where a file cannot be read.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PIECE_BYTES = 256 * 1024
"""A piece takes an agent some milliseconds: work spreads evenly, and few agents die over much of it."""
PIECE_BYTES_MIN = 4 * 1024
PIECES_EACH = 4
"""So many for each agent, where there is little to do."""

TEXT_SUFFIXES = (".c", ".h", ".md", ".pxd", ".py", ".pyi", ".pyx", ".toml")
NOT_REGULAR = "not a regular file"
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


class NotText(ValueError):
    """The bytes are no UTF-8 text; the message says what was found."""


class Tally(NamedTuple):
    """What is in one piece: lines (as ``wc -l`` counts them), words, and how often each word occurs."""

    lines: int
    words: int
    counts: dict[str, int]


class Found(NamedTuple):
    """A file to count, and its size in bytes when it was found; ``problem``: why it cannot be read."""

    path: Path
    size: int = 0
    problem: str = ""


def count(piece: bytes) -> Tally:
    """Count one piece.

    >>> count(b"To be, or not to be.\\n")
    Tally(lines=1, words=6, counts={'to': 2, 'be': 2, 'or': 1, 'not': 1})
    """
    if b"\0" in piece:
        raise NotText("binary: it holds NUL bytes")
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        raise NotText(f"not UTF-8 text: {error.reason}, byte 0x{piece[error.start]:02x}") from None
    words = _WORD.findall(text.lower())
    return Tally(piece.count(b"\n"), len(words), dict(Counter(words)))


def piece_bytes(total: int, agents: int) -> int:
    """The most that a piece of so many bytes of work should have, for all agents to get some of it."""
    return max(PIECE_BYTES_MIN, min(PIECE_BYTES, total // (agents * PIECES_EACH)))


def read_pieces(path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """The bytes of a file, in order; an empty file has no piece."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(piece_bytes - len(rest)):
            data = rest + block
            end = _end_of_piece(data) if len(data) == piece_bytes else len(data)
            yield data[:end]
            rest = data[end:]
        if rest:
            yield rest


def _end_of_piece(data: bytes) -> int:
    """Where to cut: behind the last line, else behind the last blank, else between two characters."""
    end = data.rfind(b"\n") + 1 or data.rfind(b" ") + 1
    if end:
        return end
    last = len(data) - 1
    while last > len(data) - 4 and data[last] & 0xC0 == 0x80:  # it continues a character
        last -= 1
    return last if data[last] >= 0xC0 else len(data)


def find_files(paths: Iterable[Path]) -> list[Found]:
    """The files among ``paths`` and in the directories among them, each once, hidden ones left out.

    What cannot be read is kept, with its problem; what is no regular file is passed over in a
    directory, and a problem where it was named. Links to directories are not followed.
    """
    found: dict[Path, Found] = {}
    for path in paths:
        for entry in _look_into(path) if path.is_dir() else [_look_at(path)]:
            if path == entry.path or entry.problem != NOT_REGULAR:
                found.setdefault(entry.path, entry)
    return list(found.values())


def _look_into(folder: Path) -> Iterator[Found]:
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (_look_at(Path(parent, name)) for name in sorted(files) if not name.startswith("."))
    yield from (Found(Path(error.filename), problem=why(error)) for error in unreadable)


def _look_at(path: Path) -> Found:
    try:
        status = path.stat()
    except OSError as error:
        return Found(path, problem=why(error))
    return Found(path, status.st_size, "" if stat.S_ISREG(status.st_mode) else NOT_REGULAR)


def why(error: OSError) -> str:
    """What a file's problem says for an error of the system."""
    return f"cannot be read: {error.strerror}"


def own_text() -> list[Path]:
    """This project's own text: of the checkout, if this package lies in one, else of the package itself."""
    package = Path(__file__).resolve().parents[1]
    root = package.parents[1]
    if package.parent.name == "src" and (root / "pyproject.toml").is_file():
        parts = [root / name for name in ("README.md", "CHANGELOG.md", "src", "tests", "bench", "examples")]
    else:
        parts = [package, package.parent / "agentnet_core"]
    found = find_files(path for path in parts if path.exists())
    return [entry.path for entry in found if entry.path.suffix in TEXT_SUFFIXES]
