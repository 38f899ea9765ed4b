"""Memory that is filled once and that nobody can change afterwards: how weights are lent to other processes.

A memfd, sealed after it was filled against shrinking, growing, writing and further seals. The last writable
mapping must be gone for that, so its maker's is exchanged for a read-only one at the same address: what points
into it stays valid, and a stray write ends the process instead of changing everybody's weights.

The kernel is asked for huge pages, which spare the processor's address translation: measured on SmolLM2, with them
products of few rows take what they take on the heap, and without them 3 to 5 % more. Having none is no error.

Who is given the descriptor maps it privately (`map_private`). That may be written to, for the kernel then makes
pages of the writer's own; all other pages are the one copy that all share. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import weakref
from typing import Final

from symbiosis_core.errors import RemoteProtocolError

__all__ = ["SealedMemory", "check_sealed", "map_private"]

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_MAP_FIXED: Final = 0x10
"""Of Linux; Python's mmap chooses its own addresses and has no name for it."""
_MADV_COLLAPSE: Final = 25
"""Of Linux 6.1: gather small pages into huge ones now."""
_HUGE_BYTES: Final = 2 << 20
"""Of a huge page. One is only used where its address is a multiple of this."""


class SealedMemory:
    """A memfd of this process, writable until `seal`. Lives as long as this object or anything that views it."""

    def __init__(self, capacity_bytes: int) -> None:
        """Makes room for `capacity_bytes`, of which pages are taken only once they are written.

        Raises:
            OSError: this system has no such memory to give.
        """
        self.fd: Final = os.memfd_create("symbiosis-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, capacity_bytes)
        self._room: Final = mmap.mmap(-1, capacity_bytes + _HUGE_BYTES, flags=mmap.MAP_PRIVATE)
        """Addresses, among which the memory begins at the first that huge pages can have."""
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._room))
        self._skipped: Final = -begin % _HUGE_BYTES
        self.address: Final = begin + self._skipped
        _map_over(self.address, capacity_bytes, self.fd, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
        self.mapping: Final = memoryview(self._room)[self._skipped : self._skipped + capacity_bytes]
        """The memory, for whoever fills it; read-only after `seal`, whatever Python says."""
        self.nbytes = capacity_bytes

    def __repr__(self) -> str:
        return f"<SealedMemory fd={self.fd} {self.nbytes} bytes>"

    def seal(self, used_bytes: int) -> None:
        """Gives back what is beyond `used_bytes`, and lets nobody change the rest any more, this process included.

        Raises:
            OSError: the system does not let it be sealed; it may be writable still.
        """
        with contextlib.suppress(OSError):  # a kernel without it, or no huge pages left
            self._room.madvise(_MADV_COLLAPSE, self._skipped, max(used_bytes, 1))
        _map_over(self.address, self.nbytes, self.fd, mmap.PROT_READ, mmap.MAP_PRIVATE)
        self.nbytes = max(used_bytes, 1)
        os.ftruncate(self.fd, self.nbytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)


def check_sealed(fd: int, announced_bytes: int) -> None:
    """Checks that nobody, not even its maker, can change or resize the memory.

    Raises:
        RemoteProtocolError: not sealed so, or not of the announced size.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise RemoteProtocolError(f"the lent weights are not sealable memory: {error}") from None
    if seals & _SEALS != _SEALS:
        raise RemoteProtocolError("the lent weights are not sealed: somebody could still change them")
    if (actual := os.fstat(fd).st_size) != announced_bytes:
        raise RemoteProtocolError(f"the lent weights have {actual} bytes, announced were {announced_bytes}")


def map_private(fd: int, start: int, nbytes: int) -> tuple[mmap.mmap, int]:
    """Maps `nbytes` from byte `start` on. What is written there stays in this process, in pages of its own.

    Returns the mapping, which begins at a page, and where in it `start` is. `fd` stays the caller's.
    """
    inside = start % mmap.PAGESIZE
    return mmap.mmap(fd, inside + nbytes, flags=mmap.MAP_PRIVATE, offset=start - inside), inside


def _map_over(address: int, nbytes: int, fd: int, protection: int, flags: int) -> None:
    """Puts a mapping of `fd` in the place of what was mapped from `address` on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    placed = libc.mmap(address, nbytes, protection, flags | _MAP_FIXED, fd, 0)
    if placed != address:
        raise OSError(ctypes.get_errno(), "the weights cannot be mapped where they shall lie")
