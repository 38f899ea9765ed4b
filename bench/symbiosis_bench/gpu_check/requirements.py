"""What a GPU machine must have, and how to bring it. The standard library is enough: nothing may be there yet."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

__all__ = ["gpu_missing", "packages_missing", "wheels"]

_HOUSE: Final = Path(__file__).resolve().parents[3]
_OURSELVES: Final = "symbiosis-llm"
_TOOLS: Final = ("pytest", "pytest-asyncio")
_BUILDERS: Final = ("hatchling", "editables")
"""Of the project itself, where it is installed."""
_OPTIONAL: Final = re.compile(r"extra ==|win32|Windows|python_version <")
"""Of a requirement that is for other machines, or for nobody who did not ask."""
_FETCH: Final = """\
pip download --no-deps --only-binary=:all: --python-version {python} --implementation cp --dest wheels \\
  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 {packages}
and there: pip install --no-index --no-deps wheels/*.whl
           pip install --no-index --no-deps --no-build-isolation --editable ."""


def required() -> tuple[str, ...]:
    """Returns the names of all packages that the project needs, as pyproject.toml has them."""
    project = tomllib.loads((_HOUSE / "pyproject.toml").read_text())["project"]
    return tuple(map(_name, project["dependencies"]))


def packages_missing() -> list[str]:
    """Returns those that are not installed. The project is one: its entry points are how all is found."""
    return [name for name in (*required(), *_TOOLS, _OURSELVES) if not _installed(name)]


def gpu_missing() -> str:
    """Returns why no GPU can be used here; empty: one can. torch must be installed."""
    from symbiosis_transports.cuda.source import CudaDevices

    return CudaDevices().obstacle()


def wheels(python: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> str:
    """Returns the command that fetches, elsewhere, what the machine may lack. torch with CUDA it must have.

    It knows what this machine has installed, so it is asked where the project runs already.
    """
    tested = dict(line.split("==") for line in _lines(_HOUSE / "constraints.txt") if "==" in line)
    names = sorted(_with_needs({*required(), *_TOOLS, *_BUILDERS}) - {"torch"})
    pinned = [f"{name}=={tested[name]}" if name in tested else name for name in names]
    return _FETCH.format(python=python, packages=" ".join(pinned))


def _with_needs(names: set[str]) -> set[str]:
    """Returns the packages and all that they need in turn. What torch needs comes with torch."""
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        found.add(name)
        if name == "torch" or not _installed(name):
            continue
        for line in requires(name) or ():
            if not _OPTIONAL.search(line):
                left |= {_name(line)} - found
    return found


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; (]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]
