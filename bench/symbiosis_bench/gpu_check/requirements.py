"""What a GPU machine must have, and how to bring it. The standard library is enough: nothing may be there yet."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

__all__ = ["packages_missing", "wheels"]

_HOUSE: Final = Path(__file__).resolve().parents[3]
_OURSELVES: Final = "symbiosis-llm"
_TOOLS: Final = ("packaging", "pytest", "pytest-asyncio")
_BUILDERS: Final = ("hatchling", "editables")
"""Of the project itself, where it is installed."""
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


def wheels(python: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> str:
    """Returns the command that fetches, elsewhere, what the machine may lack. torch with CUDA it must have.

    It takes the versions that are installed here, which fit each other, and names nothing that is not known here.

    Raises:
        LookupError: this interpreter has not what the project needs, so it does not know what that needs in turn.
    """
    if missing := [name for name in (*required(), *_TOOLS) if not _installed(name)]:
        raise LookupError(
            f"this interpreter has no {', '.join(missing)}; ask the project's: PYTHON=.venv/bin/python"
        )
    names = sorted(_with_needs({*required(), *_TOOLS, *_BUILDERS}, python) - {"torch"})
    pinned = [f"{name}=={version(name)}" if _installed(name) else name for name in names]
    return _FETCH.format(python=python, packages=" ".join(pinned))


def _with_needs(names: set[str], python: str) -> set[str]:
    """Returns the packages and all that they need in turn on Linux. What torch needs comes with torch."""
    from packaging.requirements import Requirement

    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        found.add(name)
        if name == "torch" or not _installed(name):
            continue
        for needed in map(Requirement, requires(name) or ()):
            if needed.marker is None or needed.marker.evaluate(there):
                left |= {_name(needed.name)} - found
    return found


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; (]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
