"""Builds every .pyx under src/ as one extension module; all metadata is in pyproject.toml.

Generated C goes to build/cython, so that src/ holds what people wrote and the built modules.
"""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SRC = Path("src")
INCLUDE = SRC / "agentnet_core" / "include"
GENERATED = Path("build/cython")
POSIX_ONLY = {SRC / "agentnet/liveness/responder.pyx"}
JOBS = 2

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "auto_pickle": False,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}


class BuildExt(build_ext):
    """In-place and editable builds share build/inplace, so that only what changed is compiled again."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.inplace:
            self.build_lib = "build/inplace"


def compile_args() -> list[str]:
    if sys.platform == "win32":
        return ["/O2"]
    # -g0: an interpreter's own flags often carry -g, which makes a module five times as large.
    args = ["-O3", "-g0", "-fvisibility=hidden"]
    if sys.platform == "linux":
        args.append("-fno-semantic-interposition")
    return args


def extensions() -> list[Extension]:
    depends = ["setup.py", *(path.as_posix() for path in sorted(INCLUDE.glob("*.h")))]
    return [
        Extension(
            ".".join(path.relative_to(SRC).with_suffix("").parts),
            [path.as_posix()],
            include_dirs=[INCLUDE.as_posix()],
            depends=depends,
            extra_compile_args=compile_args(),
        )
        for path in sorted(SRC.rglob("*.pyx"))
        if sys.platform != "win32" or path not in POSIX_ONLY
    ]


def directives_may_differ() -> bool:
    """Cython compares the times of sources only, and not what it was told in this file."""
    told = Path("setup.py").stat().st_mtime
    return any(path.stat().st_mtime < told for path in GENERATED.rglob("*.c"))


# cythonize starts worker processes that may import this file again.
if __name__ == "__main__":
    setup(
        ext_modules=cythonize(
            extensions(),
            build_dir=GENERATED.as_posix(),
            nthreads=JOBS,
            compiler_directives=DIRECTIVES,
            include_path=[SRC.as_posix()],
            force=directives_may_differ() or None,
        ),
        cmdclass={"build_ext": BuildExt},
        options={"build_ext": {"parallel": JOBS}},
    )
