"""Says in plain words what this machine lacks to build agentnet; exit 1 if it lacks anything.

Runs on whatever Python 3 was found, however old, so it uses nothing newer than Python 3.5.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig


def missing():
    if sys.version_info < (3, 11):
        yield (
            "Python 3.11 or later (this is {}, {}); if you have one under another name,"
            " say for example: make PYTHON=python3.12 test"
        ).format(sys.version.split()[0], sys.executable)
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        yield "Python's venv and ensurepip (on Debian and Ubuntu the package python3-venv)"
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    if not os.path.exists(header):
        yield "Python's C headers: {} (Debian and Ubuntu: python3-dev, Fedora: python3-devel)".format(header)
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        yield "a C compiler: {} (Debian and Ubuntu: gcc and libc6-dev, macOS: xcode-select --install)".format(
            compiler
        )


def main():
    lacking = list(missing())
    for what in lacking:
        print("agentnet cannot be built here without " + what, file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
