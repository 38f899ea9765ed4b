"""One sealed memfd per client: made, sized and sealed by the daemon, mapped by both.

Anonymous memory dies with its last user, so a `kill -9` leaks nothing. The seals forbid truncation: nobody can
make the other side fault on a page that has gone. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os

from symbiosis_core.errors import RemoteProtocolError

__all__ = ["Arena"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Arena:
    """A mapped, sealed piece of shared memory."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.view = memoryview(mapping)
        """The whole arena as bytes."""
        self.words = self.view[: mmap.PAGESIZE * (len(mapping) // mmap.PAGESIZE)].cast("Q")
        """The whole arena as aligned u64 words."""

    def __repr__(self) -> str:
        return f"<Arena {self._mapping.size() if not self._mapping.closed else 'closed'}>"

    @classmethod
    def create(cls, arena_bytes: int) -> tuple[Arena, int]:
        """Makes, sizes and seals the memory. Returns it mapped, and the descriptor, which the caller closes."""
        fd = os.memfd_create("symbiosis", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, arena_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(mmap.mmap(fd, arena_bytes)), fd
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, arena_bytes: int) -> Arena:
        """Maps memory that another process made; `fd` stays the caller's.

        A forked child inherits the mapping, and with it keeps the memory until it ends or drops its views. It is
        not kept from inheriting (MADV_DONTFORK): unmapping what was never mapped there could hit other memory.

        Raises:
            RemoteProtocolError: not sealed, or not of the size that was announced, or more than can be mapped.
        """
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise RemoteProtocolError(f"the arena is not sealable memory: {error}") from None
        if seals & _SEALS != _SEALS:
            raise RemoteProtocolError("the arena is not sealed against resizing")
        if (actual := os.fstat(fd).st_size) != arena_bytes:
            raise RemoteProtocolError(f"the arena has {actual} bytes, announced were {arena_bytes}")
        return cls(_mapped(fd, arena_bytes))

    @classmethod
    def private(cls, arena_bytes: int) -> Arena:
        """Makes memory that nobody else sees, of the size that another process announced.

        Raises:
            RemoteProtocolError: there is not as much.
        """
        return cls(_mapped(-1, arena_bytes))

    def close(self) -> None:
        """Unmaps now, or when the last tensor that views the memory dies."""
        self.words.release()
        self.view.release()
        with contextlib.suppress(BufferError):
            self._mapping.close()


def _mapped(fd: int, arena_bytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(fd, arena_bytes)
    except (OSError, ValueError, OverflowError) as error:  # of Python itself, where no machine has as much
        raise RemoteProtocolError(f"an arena of {arena_bytes} bytes cannot be mapped: {error}") from None
