"""The README is true: its example runs and prints what it shows, its commands exist and are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click import Group
from click.testing import CliRunner

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "hello.py"
TEST = ROOT / "examples" / "test_shouters.py"
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Every command of the page: the file that runs it, and a pattern of the line that does.
RUN_BY = {
    "make demo": (".ci/run", r"^make demo$"),
    "make demo FILES": (".ci/run", r"^make demo FILES="),
    "make test": (".ci/run", r"^make check test\b"),
    "make check": (".ci/run", r"^make check test\b"),
    "make wheel": (".ci/run", r"^make wheel$"),
    "make bench": (".ci/run", r"^make bench ARGS="),  # all of it takes too long
    "make bench ARGS": (".ci/run", r"^make bench ARGS="),
    "pip install .": (".ci/run", r"^\S+/pip\S* .*install dist/\*\.whl$"),  # what it would build first
    "agentnet demo": (".ci/run", r"^ +venv/bin/agentnet demo$"),
    "agentnet sim": ("tests/test_sim.py", r"shell\(\*scenario"),
    "agentnet dead-letters": ("tests/test_dead_letters.py", r'"dead-letters", "--json"'),
    "agentnet certs": ("tests/test_cli.py", r'self\.call\("certs"'),
    "agentnet run": ("tests/test_cli.py", r'command\("run"'),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_examples_are_the_files() -> None:
    assert blocks("python") == [path.read_text(encoding="utf-8") for path in (EXAMPLE, TEST)]


def test_the_example_prints_what_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (blocks("text")[0], "", 0)


def test_the_test_passes_with_the_plugin_alone() -> None:
    plugins = ("-p", "agentnet.testing", "-p", "no:asyncio", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-W", "error", *plugins, TEST],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> set[str]:
    """What the page tells people to type; of a variable, that one may be given."""
    found = set(re.findall(r"`((?:agentnet|make) [a-z-]+)", README))
    for line in "".join(blocks("sh")).splitlines():
        command, _, remark = line.partition("#")
        found.add(command.strip())
        found |= {f"{command.strip()} {variable}" for variable in re.findall(r"\b([A-Z]+)=", remark)}
    return found


def test_every_command_is_run_by_something() -> None:
    assert commands() == set(RUN_BY)
    for command, (path, line) in RUN_BY.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(line, text, re.MULTILINE), f"{path} does not run {command}"


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+) ", "\n".join(blocks("sh")))) | set(
        re.findall(r"`make ([a-z]+)", README)
    )
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert named >= {"demo", "test", "bench", "check", "wheel"}
    assert named <= targets


def test_every_command_exists() -> None:
    [command] = entry_points(group="console_scripts", name="agentnet")
    main = command.load()
    assert isinstance(main, Group)
    named = set(re.findall(r"`agentnet ([a-z-]+)", README))
    assert named == {"certs", "dead-letters", "demo", "run", "sim"}
    for name in sorted(named):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, f"agentnet {name} --help: {result.output}"


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
