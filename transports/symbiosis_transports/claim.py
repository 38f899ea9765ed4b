"""Who owns a socket in the file system: one daemon, as long as it lives.

A socket's name says nothing about its owner: it outlives a killed daemon, and libzmq takes over a live one
without a word. So a lock on a file beside it decides. The kernel gives the lock back when its holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

from symbiosis_core.errors import UsageError
from symbiosis_transports.address import Address, parse
from symbiosis_transports.folder import check_folder
from symbiosis_transports.keys import check_exposure, daemon_keys

__all__ = ["AddressClaim"]


class AddressClaim:
    """The right to listen at an address."""

    def __init__(self, address: str) -> None:
        self._address = parse(address)
        if self._address.scheme == "embedded":
            raise UsageError(f"a daemon listens at a socket, not at {address!r}; write ipc:///path/to/socket")
        self._fd = -1

    def __repr__(self) -> str:
        return f"<AddressClaim {self._address.control} {'held' if self._fd >= 0 else 'not held'}>"

    def take(self) -> None:
        """Takes the address, making its folder if need be.

        Raises:
            UsageError: another daemon lives there, something else stands there, the folder cannot be written, or
                others could put a socket of theirs there;
                of a tcp address, that it cannot be bound, or must not be without keys.
        """
        if self._address.scheme == "tcp":
            check_exposure(self._address, daemon_keys())
            _check_free(self._address)
            return
        path = Path(self._address.target)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_folder(path, asking=False)
            fd = _open_lock(f"{path}.lock")
        except OSError as error:
            raise UsageError(
                f"cannot listen at {self._address.control}: {error.strerror}; choose a path you may write"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise UsageError(
                f"{self._address.control} is in use by the daemon with pid {holder}; "
                "stop it, or choose another --listen address"
            ) from None
        if others := [name for name in (path, path.with_name(path.name + ".data")) if _is_no_socket(name)]:
            os.close(fd)
            raise UsageError(f"{others[0]} is there and is no socket; it is left alone: choose another address")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def give_back(self) -> None:
        """Lets the next daemon listen. The file stays: removing it would let two daemons hold two locks."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_lock(name: str) -> int:
    """Opens the file that is locked and written to, which may be in the folder of somebody who wishes us to write
    elsewhere: so it is a file of this user's, or root's, under this one name.

    Raises:
        UsageError: it is a link, or something else.
    """
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UsageError(
            f"{name} is a link, and what it points to is left alone: choose another address"
        ) from None
    there = os.fstat(fd)
    if stat.S_ISREG(there.st_mode) and there.st_nlink <= 1 and there.st_uid in (0, os.geteuid()):
        return fd
    os.close(fd)
    raise UsageError(
        f"{name} is there, of user {there.st_uid}, and is no lock of a daemon of yours; it is left alone: "
        "choose another address"
    )


def _check_free(address: Address) -> None:
    """Looks only: the kernel itself lets nobody take over a port that is in use."""
    for port in (address.port, address.port + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host.replace("*", "0.0.0.0"), port))
            except OSError as error:
                raise UsageError(
                    f"cannot listen at {address.control}: port {port}: {error.strerror}; a daemon takes two ports "
                    "beside each other"
                ) from error


def _is_no_socket(path: Path) -> bool:
    """Whether something stands there that a daemon did not leave: binding would delete it."""
    try:
        return not stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False
