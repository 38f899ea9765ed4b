"""Whom a daemon lets in over a network: the public keys in a folder, as they are now, and not as they once were.

The folder is looked at whenever somebody comes in, and read when it has changed: all of it, or, where a file in it
is no key, nothing. So nobody has to tell the daemon, and a file that is half written lets nobody in or out. What
the system does not let us read, it may let us read later, with nothing changed: that is tried again, but at most
once a second, for whoever comes may come often.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import zmq.auth
from zmq.utils import z85

from symbiosis_core.errors import UsageError
from symbiosis_core.logs import event, get_logger

__all__ = ["AllowList", "read_key"]

log = get_logger(__name__)

_KEY_BYTES = 32
_PAUSE_S: Final = 1.0
"""Between two tries to read what could not be read, and has not changed."""

_Look = tuple[tuple[str, tuple[int, ...] | None], ...]
"""The name of each file, and when it, or its mode, was changed, its size and its inode; None: nobody says."""


class _Seen(NamedTuple):
    look: _Look | None
    """None: the folder could not be looked at."""
    names: Mapping[bytes, str]
    trouble: str = ""
    """Why they are those of before; empty: they are what the folder holds."""
    again_s: float | None = None
    """When to read again although nothing has changed; None: never, for this trouble does not pass by itself."""

    def due(self, look: _Look | None, now_s: float) -> bool:
        """Whether the folder is to be read."""
        return look != self.look or (self.again_s is not None and now_s >= self.again_s)


class AllowList:
    """Asked by several threads at once. What it knows is replaced as a whole."""

    def __init__(self, folder: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Reads the folder.

        Raises:
            UsageError: it is not there, or holds a file that is no key, or no key at all.
        """
        self._folder = folder
        self._clock_s = clock_s
        look = _look(folder)
        names = _read(folder) if look else {}
        if not names:
            raise UsageError(f"{folder}: there is no public key (NAME.key) of anybody in that folder")
        self._seen = _Seen(look, names)

    def __repr__(self) -> str:
        return f"<AllowList {self._folder} keys={len(self._seen.names)}>"

    def name_of(self, key: bytes) -> str | None:
        """Returns whose key it is, the name of its file without `.key`; None: it is not allowed."""
        look, seen = _look(self._folder), self._seen
        if seen.due(look, self._clock_s()):
            seen = self._seen = self._read_again(look, seen)
        return seen.names.get(key)

    def callback(self, domain: str, key: bytes) -> bool:
        """What pyzmq's authenticator asks, in its own thread."""
        return self.name_of(key) is not None

    def _read_again(self, look: _Look | None, before: _Seen) -> _Seen:
        """Raises nothing: whoever asks is a thread that all others need, and of which one is all there is."""
        try:
            if look is None:
                raise UsageError("the folder cannot be read")
            names = _read(self._folder)
        except Exception as error:  # noqa: BLE001  whatever stands in a file, see above
            passes = isinstance(error.__cause__ or error, OSError)
            again_s = self._clock_s() + _PAUSE_S if passes else None
            seen = _Seen(look, before.names, str(error), again_s)
            if (seen.look, seen.trouble) != (before.look, before.trouble):
                log.error(event("keys not read, those of before hold", folder=self._folder, error=error))
            return seen
        log.info(event("keys read", folder=self._folder, names=",".join(sorted(names.values()))))
        return _Seen(look, names)


def read_key(file: Path) -> tuple[bytes, bytes | None]:
    """Returns the public key in a file, and the secret one where it is there, too.

    Raises:
        UsageError: it is no key.
    """
    try:
        public, secret = zmq.auth.load_certificate(file)
        if any(key is not None and len(z85.decode(key)) != _KEY_BYTES for key in (public, secret)):
            raise ValueError(f"a key has {_KEY_BYTES} bytes")
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise UsageError(f"{file} is no key: {error}; `symbiosis keys new` makes some") from error
    return public, secret


def _look(folder: Path) -> _Look | None:
    try:
        return tuple((file.name, _mark(file)) for file in _files(folder))
    except OSError:
        return None


def _mark(file: Path) -> tuple[int, ...] | None:
    try:
        seen = file.stat()
    except OSError:  # as of a link to nothing: reading it says why
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino


def _read(folder: Path) -> Mapping[bytes, str]:
    """A key that has two names goes by the first."""
    return {read_key(file)[0]: file.stem for file in reversed(_files(folder))}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix == ".key")
