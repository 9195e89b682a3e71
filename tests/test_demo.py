"""The demo: what it counts, and what is left of its processes however it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import called, command, end, linked, living, workers
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Cluster, soon, until

from agentnet import AgentMessage, AgentNode, AgentUnreachable, ConfigError, NodeStatus
from agentnet.demo import Summary, run_demo, words
from agentnet.demo.coordinator import ATTEMPTS_MAX, Coordinator, FileCount, take_pulse
from agentnet.demo.show import document, percentiles, progress, show
from agentnet.demo.words import (
    PIECE_BYTES,
    PIECE_BYTES_MIN,
    NotText,
    count,
    find_files,
    own_text,
    piece_bytes,
    read_pieces,
)

LINE = "The quick brown fox doesn't jump over the lazy dog, nor over the café.\n"


class Notes:
    """A Watch that remembers, and may do something when the first piece is in."""

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self.total = self.done = 0
        self.texts: list[str] = []
        self._on_first = on_first

    def begin(self, files: int, size: int) -> None:
        self.total = size

    def advance(self, size: int) -> None:
        if not self.done:
            self._on_first()
        self.done += size

    def note(self, text: str) -> None:
        self.texts.append(text)


class TestWords:
    def test_letters_with_apostrophes_inside_in_lower_case(self) -> None:
        text = "Don't 'quote' me: l\u2019\u00c9t\u00e9, \u4f60\u597d, snake_case, x86, 42\n"
        assert list(count(text.encode()).counts) == [
            *("don't", "quote", "me", "l\u2019\u00e9t\u00e9", "\u4f60\u597d", "snake", "case", "x")
        ]
        assert count(b"") == (0, 0, {})

    @pytest.mark.parametrize(("data", "problem"), [(b"a\0b", "binary"), (b"caf\xe9 au", "not UTF-8.* 0xe9")])
    def test_what_is_no_text_is_refused(self, data: bytes, problem: str) -> None:
        with pytest.raises(NotText, match=problem):
            count(data)

    @settings(deadline=None, max_examples=50)  # a disk may be slow
    @given(text=st.text(st.sampled_from("a\u00e9\u4f60\U0001f600 \n")), size=st.integers(8, 40))
    def test_pieces_are_the_file(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, size: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "pieces"
        path.write_bytes(text.encode())
        pieces = list(read_pieces(path, size))
        assert b"".join(pieces).decode() == "".join(piece.decode() for piece in pieces) == text
        assert all(0 < len(piece) <= size for piece in pieces)

    @settings(deadline=None, max_examples=50)  # a disk may be slow
    @given(lines=st.lists(st.text(st.sampled_from("ab "), max_size=20)), size=st.integers(21, 60))
    def test_pieces_that_hold_a_line_split_no_word(
        self, tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "lines"
        path.write_text("".join(f"{line}\n" for line in lines))
        whole, total = count(path.read_bytes()), Counter[str]()
        tallies = [count(piece) for piece in read_pieces(path, size)]
        for tally in tallies:
            total.update(tally.counts)
        assert total == whole.counts
        assert sum(tally.lines for tally in tallies) == whole.lines == len(lines)


class TestFiles:
    def test_a_little_work_is_cut_for_all(self) -> None:
        assert piece_bytes(162_000, 8) == 162_000 // 32
        assert piece_bytes(10, 8) == PIECE_BYTES_MIN
        assert piece_bytes(10**9, 8) == PIECE_BYTES

    def test_a_directory_holds_its_files_but_the_hidden_ones(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a/c.txt", ".hidden", ".git/config", "__pycache__/a.pyc"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        os.mkfifo(tmp_path / "fifo")
        found = find_files([tmp_path, tmp_path / "b.txt"])
        assert [entry.path for entry in found] == [tmp_path / "b.txt", tmp_path / "a/c.txt"]

    def test_what_was_named_and_cannot_be_read_is_kept(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        found = find_files([tmp_path / "fifo", tmp_path / "gone"])
        assert [entry.problem for entry in found] == [
            "not a regular file",
            "cannot be read: No such file or directory",
        ]

    def test_our_own_text_is_that_of_the_checkout_or_of_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert {path.name for path in own_text()} >= {"manager.py", "words.py", "engine.pxd"}
        assert not [path for path in own_text() if path.suffix == ".so"]
        package = Path(words.__file__).parents[1]
        for name in (package, package.with_name("agentnet_core")):
            shutil.copytree(name, tmp_path / name.name, ignore=shutil.ignore_patterns("*.so"))
        monkeypatch.setattr(words, "__file__", str(tmp_path / "agentnet" / "demo" / "words.py"))
        installed = own_text()
        assert {path.name for path in installed} >= {"manager.py", "words.py", "engine.pxd"}
        assert all(path.is_relative_to(tmp_path) for path in installed)


class TestHandingOut:
    """The coordinator beside agents in this process that do what a test wants."""

    @staticmethod
    async def counted(cluster: Cluster, handler: Any, *paths: Path) -> tuple[Coordinator, Notes]:
        here, there = await cluster.start("here", "there", leave_ms_max=100)
        await there.register_agent("a", ["index"], handler)
        await there.register_agent("b", ["index"], handler)
        notes = Notes()
        coordinator = Coordinator(here.agents("index"), notes)
        me = await here.register_agent("me", handler=coordinator.on_report, broadcasts=False)
        await soon(coordinator.count(me, find_files(paths)))
        assert notes.done >= notes.total
        return coordinator, notes

    async def test_an_agent_that_fails_is_asked_again(self, cluster: Cluster, tmp_path: Path) -> None:
        failures = iter([True, True])

        async def index(message: AgentMessage) -> Any:
            if next(failures, False):
                raise RuntimeError("not now")
            return count(message.payload)

        (tmp_path / "file").write_text(LINE * 3)
        coordinator, _ = await self.counted(cluster, index, tmp_path / "file")
        assert [(file.lines, file.problem) for file in coordinator.files] == [(3, "")]
        assert coordinator.counts["fox"] == 3
        assert sum(coordinator.retries.values()) == 2
        assert all(key[1:] == ("HandlerFailed", False) for key in coordinator.retries)

    async def test_a_piece_that_always_fails_is_given_up(self, cluster: Cluster, tmp_path: Path) -> None:
        async def index(message: AgentMessage) -> Any:
            if b"poison" in message.payload:
                raise RuntimeError("no")
            return count(message.payload)

        (tmp_path / "bad").write_text("poison")
        (tmp_path / "good").write_text(LINE)
        coordinator, _ = await self.counted(cluster, index, tmp_path)
        bad, good = coordinator.files
        assert bad.failed
        assert f"given up after {ATTEMPTS_MAX} attempts" in bad.problem
        assert (good.failed, good.lines) == (False, 1)

    async def test_a_file_that_turns_out_to_be_no_text_adds_nothing(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        async def index(message: AgentMessage) -> Any:
            try:
                return count(message.payload)
            except NotText as problem:
                return str(problem)

        (tmp_path / "file").write_bytes(LINE.encode() * 10_000 + b"\0")
        coordinator, _ = await self.counted(cluster, index, tmp_path / "file")
        [file] = coordinator.files
        assert (file.problem, file.failed) == ("binary: it holds NUL bytes", False)
        assert (file.lines, file.words, coordinator.counts) == (0, 0, Counter())

    async def test_without_agents_left_it_ends(self, cluster: Cluster, tmp_path: Path) -> None:
        async def index(message: AgentMessage) -> Any:
            await cluster.nets[1].leave_network()

        (tmp_path / "file").write_text(LINE)
        with pytest.raises(AgentUnreachable, match="no agent is left"):
            await self.counted(cluster, index, tmp_path / "file")
        with pytest.raises(AgentUnreachable, match="no agent is left"):
            await Coordinator([], Notes()).count(await cluster.nets[0].register_agent("me"), [])

    async def test_a_worker_that_dies_at_the_end_owes_only_its_report(
        self, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def index(message: AgentMessage) -> Any:
            return count(message.payload)

        (tmp_path / "file").write_text(LINE)
        coordinator, notes = await self.counted(cluster, index, tmp_path / "file")
        monkeypatch.setattr("agentnet.demo.coordinator.REPORT_S", 0.1)
        here, there = cluster.nets
        await there.leave_network()
        me = await here.register_agent("me", handler=coordinator.on_report, broadcasts=False)
        await soon(coordinator.collect(here, me))
        assert notes.texts == ["no report from a, b"]
        assert await take_pulse(me, coordinator.living) is None
        assert coordinator.counts["fox"] == 1


@pytest.mark.timeout(120)
class TestProcesses:
    """With worker processes, as a user has them."""

    async def test_files_are_counted_and_nothing_is_left(self, tmp_path: Path) -> None:
        (tmp_path / "large.txt").write_text(LINE * 20_000)
        (tmp_path / "empty.txt").touch()
        (tmp_path / "binary").write_bytes(b"\0" * 10)
        for number in range(200):
            (tmp_path / f"small-{number}").write_text(LINE)
        done = await called("demo", "--nodes", "2", "--agents", "2", "--json", tmp_path)
        told = done.document
        expected = count((LINE * 20_200).encode())
        totals = told["totals"]
        assert (totals["lines"], totals["words"]) == (expected.lines, expected.words)
        assert (totals["files"], totals["counted"], totals["distinct_words"]) == (203, 202, 11)
        assert told["top"][0] == {"word": "over", "count": 2 * 20_200}
        problems = {file["path"]: file["problem"] for file in told["files"] if file["problem"]}
        assert problems == {str(tmp_path / "binary"): "binary: it holds NUL bytes"}
        assert len(told["agents"]) == 4
        assert sum(agent["words"] for agent in told["agents"]) == expected.words
        assert all(agent["messages"] == agent["pieces"] + 1 for agent in told["agents"])
        assert told["retries"] == []
        assert set(told["latency_ms"]) == {"p50", "p90", "p99"}
        assert not [node["pid"] for node in told["nodes"] if psutil.pid_exists(node["pid"])]

    async def test_a_worker_that_is_killed_is_made_up_for(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text(LINE * 100_000)

        def kill_one() -> None:
            victims = [each for each in psutil.Process().children() if "worker-1" in each.cmdline()]
            assert len(victims) == 1
            victims[0].kill()

        notes = Notes(kill_one)
        summary = await soon(run_demo([tmp_path / "file"], 2, 2, notes), 50)
        told = document(summary, 3, 4)
        assert told["totals"]["words"] == count(LINE.encode()).words * 100_000
        assert [node["died"] for node in told["nodes"]] == ["was killed by SIGKILL", None]
        assert {agent["agent"] for agent in told["agents"] if agent["lost"]} == {"worker-1.1", "worker-1.2"}
        assert told["retries"]
        assert any("worker-1 " in text and "SIGKILL" in text for text in notes.texts)
        assert not living(psutil.Process().children())

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    async def test_a_signal_leaves_no_process_behind(self, tmp_path: Path, signum: signal.Signals) -> None:
        (tmp_path / "file").write_text(LINE * 1_000_000)
        async with command("demo", "--nodes", "2", tmp_path / "file") as process:
            children = await workers(process.pid, 2, linked)
            process.send_signal(signum)
            done = await end(process)
            if signum == signal.SIGKILL:
                await until(lambda: not living(children))
            else:
                assert not living(children)
                assert (done.code, done.out) == (128 + signum, "")
                # Progress may stand before it: after two seconds there is some.
                assert done.err.endswith(f"agentnet: stopped by {signum.name}\n")

    async def test_nothing_to_count(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no files"):
            await run_demo([tmp_path], 1, 1, Notes())

    async def test_our_own_text_without_uvloop(self, tmp_path: Path) -> None:
        (tmp_path / "uvloop.py").write_text("raise ImportError('not here')")
        done = await called("demo", "--nodes", "1", "--top", "1", path=[tmp_path])
        assert done.code == 0, done.err
        for shown in ("worker-1.2", "Most common words", " messages, ", "(p99)", "without the work: "):
            assert shown in done.out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestShow:
    @pytest.fixture
    def summary(self) -> Summary:
        """A run as bad as can be: a lost agent, no answer, a name that would clear the screen."""
        agent = AgentNode("worker-1", 7, "127.0.0.1", 1, ["index"], NodeStatus.ACTIVE, 0, {}, "a\x1b[2J")
        work = Coordinator([agent], Notes())
        work.files = [
            FileCount(Path("a\x1b[2J[bold]\udcff"), 3, lines=1, words=2),
            FileCount(Path("b"), 3, "cannot be read: Permission denied", failed=True),
        ]
        work.counts.update({"word" * 30: 2, "a": 3})
        work.agents[7].lost = "the link went down"
        work.retries.update({("a", "LinkLost", False): 2, ("b", "LinkLost", False): 1})
        return Summary(work, [], 0.5, 10, None)

    def test_tables_obey_nobody(self, summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
        show(summary, 10, 4)
        told = capsys.readouterr().out
        assert "\x1b" not in told
        assert "a\ufffd[2J[bold]\ufffd" in told
        assert "a\ufffd[2J (lost)" in told
        assert "not counted: b: cannot be read: Permission denied" in told
        assert "3 pieces of a, b were handed to other agents: LinkLost, perhaps counted before" in told
        assert "10 messages, 20 a second" in told

    def test_json_is_json_all_the_same(self, summary: Summary) -> None:
        told = json.loads(json.dumps(document(summary, 1, 1)))
        assert told["top"] == [{"word": "a", "count": 3}]
        assert told["latency_ms"] is told["network"] is None
        assert told["agents"][0]["lost"] == "the link went down"
        assert summary.failed

    def test_percentiles(self) -> None:
        assert percentiles([]) is None
        assert percentiles(range(100_000_000, 0, -1_000_000)) == {"p50": 51.0, "p90": 91.0, "p99": 100.0}

    def test_a_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        with progress() as watch:
            watch.begin(3, 1_000_000)
            watch.advance(500_000)
            watch.note("worker-1 died\x1b[2J")
        assert "3 files" in terminal.getvalue()
        assert "worker-1 died\ufffd[2J" in terminal.getvalue()

    def test_lines_elsewhere_once_it_takes_long(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with progress() as watch:
            watch.begin(3, 1_000_000)
            watch.advance(250_000)
            assert capsys.readouterr() == ("", "")
        monkeypatch.setattr("agentnet.demo.show.LINE_S", 0)
        with progress() as watch:
            watch.begin(3, 1_000_000)
            watch.advance(250_000)
        assert capsys.readouterr() == ("", "250.0 kB of 1.0 MB in 3 files\n")
