"""Holds what `python -m build` made against what the sources promise: python tools/check_wheel.py dist

A wheel carries a built module, a .pxd and a .pyi for every .pyx, the headers and py.typed, and no
.c or .pyx; an sdist carries every source and nothing generated. Then the wheel is imported from
where it was unpacked. Exit 1 and one line for each breach.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGES = ("agentnet", "agentnet_core")
SHIPPED = (".py", ".pxd", ".pyi", ".h", "py.typed")
BUILT = (".so", ".pyd")
GENERATED = (".c", ".o", ".pyc", *BUILT)


def sources(*endings: str) -> Iterator[str]:
    """Paths below src/ whose names end so."""
    for path in sorted(SRC.rglob("*")):
        if path.name.endswith(endings):
            yield path.relative_to(SRC).as_posix()


def wheel_breaches(names: list[str]) -> Iterator[str]:
    """What is wrong with a wheel that holds files of these names."""
    for name in sources(*SHIPPED):
        if name not in names:
            yield f"lacks {name}"
    built = {name.partition(".")[0] for name in names if name.endswith(BUILT)}
    for name in sources(".pyx"):
        if name.removesuffix(".pyx") not in built:
            yield f"lacks the module built from {name}"
    for name in names:
        top = name.partition("/")[0]
        if name.endswith((".c", ".o", ".pyc", ".pyx")):
            yield f"holds {name}, which belongs in no wheel"
        elif top not in PACKAGES and not top.endswith(".dist-info"):
            yield f"holds {name}, which is in neither package"


def sdist_breaches(names: list[str]) -> Iterator[str]:
    """What is wrong with an sdist that holds files of these names, its top folder taken off."""
    for name in sources(*SHIPPED, ".pyx"):
        if f"src/{name}" not in names:
            yield f"lacks src/{name}"
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        if name not in names:
            yield f"lacks {name}"
    for name in names:
        if name.endswith(GENERATED):
            yield f"holds {name}, which is generated"


def metadata_breaches(metadata: str) -> Iterator[str]:
    fields = message_from_string(metadata)
    for field, expected in (
        ("Name", "agentnet-py"),
        ("License-Expression", "Apache-2.0"),
        ("Requires-Python", ">=3.11"),
    ):
        if fields[field] != expected:
            yield f"says {field}: {fields[field]}, and not {expected}"


def import_breaches(wheel: zipfile.ZipFile) -> Iterator[str]:
    """Imports every module of the unpacked wheel, by an interpreter that sees the checkout nowhere."""
    modules = [name.removesuffix(".pyx").replace("/", ".") for name in sources(".pyx")]
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    file = importlib.import_module(name).__file__\n"
        "    assert file.startswith(sys.argv[1]), f'{name} came from {file}'\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        wheel.extractall(folder)
        command = [sys.executable, "-c", code, folder, *PACKAGES, *modules]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"cannot be imported:\n{done.stderr}"


def main(dist: Path) -> int:
    wheels, sdists = sorted(dist.glob("*.whl")), sorted(dist.glob("*.tar.gz"))
    breaches = []
    if len(wheels) != 1 or len(sdists) != 1:
        breaches.append(f"{dist}: expected one wheel and one sdist, found {len(wheels)} and {len(sdists)}")
    for path in wheels:
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
            found = [*wheel_breaches(names), *metadata_breaches(wheel.read(metadata).decode())]
            breaches += [f"{path.name} {what}" for what in found or import_breaches(wheel)]
            print(f"{path.name}: {len(names)} files, {path.stat().st_size // 1024} KiB")
    for path in sdists:
        with tarfile.open(path) as sdist:
            names = [name.partition("/")[2] for name in sdist.getnames()]
            breaches += [f"{path.name} {what}" for what in sdist_breaches(names)]
            print(f"{path.name}: {len(names)} files, {path.stat().st_size // 1024} KiB")
    for what in breaches:
        print(what, file=sys.stderr)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
