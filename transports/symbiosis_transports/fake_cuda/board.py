"""What all processes of one fake device share: pieces of memory, by name.

In one process that is a table; among several it is a folder of files that they map. Names are all that a handle
carries, as a handle of CUDA carries something that means nothing to who holds it.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Protocol

__all__ = ["Board", "FolderBoard", "MemoryBoard"]


class Board(Protocol):
    """The shared memory of one fake device."""

    def make(self, name: str, nbytes: int) -> memoryview:
        """Returns new memory of that name, zeroed."""

    def find(self, name: str) -> memoryview | None:
        """Returns memory that somebody made; None: nobody did, or it was wiped."""

    def wipe(self, name: str) -> None:
        """Forgets a name. Whoever has the memory mapped keeps it."""


class MemoryBoard:
    """A device among contexts of one process."""

    def __init__(self) -> None:
        self._pieces: dict[str, memoryview] = {}

    def make(self, name: str, nbytes: int) -> memoryview:
        """See `Board`."""
        self._pieces[name] = memoryview(bytearray(nbytes))
        return self._pieces[name]

    def find(self, name: str) -> memoryview | None:
        """See `Board`."""
        return self._pieces.get(name)

    def wipe(self, name: str) -> None:
        """See `Board`."""
        self._pieces.pop(name, None)


class FolderBoard:
    """A device among processes that share a folder, which outlives all of them and is its owner's to remove."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, name: str, nbytes: int) -> memoryview:
        """See `Board`."""
        path = self._folder / name
        with path.open("xb") as file:
            file.truncate(nbytes)
        return _map(path)

    def find(self, name: str) -> memoryview | None:
        """See `Board`."""
        path = self._folder / name
        return _map(path) if path.is_file() else None

    def wipe(self, name: str) -> None:
        """See `Board`."""
        (self._folder / name).unlink(missing_ok=True)


def _map(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0))
