"""The README is true: its example runs and prints what it shows, its commands exist."""

from __future__ import annotations

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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_example_is_the_file() -> None:
    assert blocks("python") == [EXAMPLE.read_text(encoding="utf-8")]


def test_the_example_prints_what_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (blocks("text")[0], "", 0)


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
    named = set(re.findall(r"`agentnet ([a-z]+)", README))
    assert named == {"certs", "demo", "run"}
    for name in sorted(named):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, f"agentnet {name} --help: {result.output}"


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
