"""What an installed agentnet is: its metadata, its command, what importing it costs; and how it is built."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import agentnet

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"aiohttp", "click", "cryptography", "numpy", "pydantic", "msgspec", "rich"}


def python(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["agentnet", "agentnet_core"])
def test_import_is_light(package: str) -> None:
    loaded = set(
        json.loads(python("-c", f"import {package}, json, sys; print(json.dumps(list(sys.modules)))"))
    )
    assert package in loaded
    assert not loaded & HEAVY


def test_metadata() -> None:
    metadata = distribution("agentnet-py").metadata
    assert metadata["Version"] == agentnet.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


@pytest.mark.parametrize("package", ["agentnet", "agentnet_core"])
def test_types_are_shipped(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


def test_command() -> None:
    [command] = entry_points(group="console_scripts", name="agentnet")
    assert command.value == "agentnet.cli:main"
    told = python(
        "-c", "import sys; sys.argv = ['agentnet', '--help']; from agentnet.cli import main; main()"
    )
    assert told.startswith("Usage: agentnet")


@pytest.mark.checkout
@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "src").rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")],
    ids=lambda path: path.relative_to(ROOT / "src").as_posix(),
)
def test_docstring_examples(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(module.removesuffix(".__init__")))
    assert found.failed == 0
    assert found.attempted > 0


# -- the build


@pytest.fixture(scope="module")
def check_wheel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "tools" / "check_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.checkout
def test_check_wheel_knows_a_good_wheel_from_a_bad_one(check_wheel: ModuleType) -> None:
    good = [
        *check_wheel.sources(*check_wheel.SHIPPED),
        *(
            f"{name.removesuffix('.pyx')}.cpython-311-x86_64-linux-gnu.so"
            for name in check_wheel.sources(".pyx")
        ),
        "agentnet_py-0.1.0.dist-info/METADATA",
    ]
    assert list(check_wheel.wheel_breaches(good)) == []
    without = [name for name in good if not name.startswith("agentnet_core/framing")]
    assert list(check_wheel.wheel_breaches(without)) == [
        "lacks agentnet_core/framing.pxd",
        "lacks agentnet_core/framing.pyi",
        "lacks the module built from agentnet_core/framing.pyx",
    ]
    assert list(check_wheel.wheel_breaches([*good, "agentnet_core/framing.c", "tests/test_package.py"])) == [
        "holds agentnet_core/framing.c, which belongs in no wheel",
        "holds tests/test_package.py, which is in neither package",
    ]


@pytest.mark.checkout
def test_the_workflow_stands_where_the_service_looks() -> None:
    assert (ROOT / "wheels.yml").read_bytes() == (ROOT / ".github/workflows/wheels.yml").read_bytes()


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("platform", "arch", "systems"),
    [
        ("linux", "x86_64", ["manylinux_x86_64", "musllinux_x86_64"]),
        ("linux", "aarch64", ["manylinux_aarch64", "musllinux_aarch64"]),
        ("macos", "x86_64", ["macosx_x86_64"]),
        ("macos", "arm64", ["macosx_arm64"]),
    ],
)
def test_wheels_that_would_be_built(platform: str, arch: str, systems: list[str]) -> None:
    told = python(
        *(
            "-m",
            "cibuildwheel",
            "--platform",
            platform,
            "--archs",
            arch,
            "--print-build-identifiers",
            str(ROOT),
        )
    )
    versions = ["cp311", "cp312", "cp313", "cp314", "cp315"]
    assert sorted(told.split()) == sorted(f"{version}-{system}" for version in versions for system in systems)
