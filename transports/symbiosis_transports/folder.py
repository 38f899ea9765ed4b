"""Where a socket stands: nobody else may be able to put another one in its place.

A socket's mode says who may connect to it. Who may rename and replace it, its folder's says. Both sides look there
for the control socket, since ZeroMQ tells a client whom it has reached with the first answer only. At the data
sockets the same rule says whose daemon a client deals with, and there the kernel says who has answered.

Not looked at: whether a group may write into the folder, which is taken for its owner's wish, and the folders
above it, whose owners, and whoever may write into them, can put another folder in its place.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from symbiosis_core.errors import UsageError

__all__ = ["check_folder", "check_owner", "for_owner_alone"]

_OVERFLOW_UID: Final = 65534
"""Whom a user namespace shows as the owner of what belongs to users outside it: /tmp is root's, outside."""


def check_folder(path: Path, *, asking: bool) -> None:
    """Lets a socket be used that is this user's, or root's, in a folder where that stays so.

    Root may use a folder of somebody else, as in a container into which one is mounted; `asking`, not taking the
    address, it may also use the socket of the folder's owner. A folder like /tmp may be the overflow user's.

    Raises:
        UsageError: the socket or its folder are another user's, or everybody may exchange what stands there.
        FileNotFoundError: there is no folder, or, `asking`, no socket.
    """
    folder = path.parent.stat()
    for_all, sticky = folder.st_mode & stat.S_IWOTH, folder.st_mode & stat.S_ISVTX
    trusted = {0, os.geteuid()}
    try:
        owner = path.lstat().st_uid
    except FileNotFoundError:
        if asking:
            raise
    else:
        if owner not in trusted and not (asking and _is_asked_by_root(owner, folder)):
            raise UsageError(f"{path} belongs to user {owner}; choose another address")
    if for_all and sticky:  # only the folder's owner may exchange what is another's
        trusted.add(_OVERFLOW_UID)
    if folder.st_uid not in trusted and os.geteuid() != 0:
        raise UsageError(
            f"{path.parent} belongs to user {folder.st_uid}, who could put another socket in the place of "
            f"{path.name}; choose a folder of your own"
        )
    if for_all and not sticky:
        raise UsageError(
            f"everybody may write into {path.parent}, and put another socket in the place of {path.name}; "
            "choose a folder of your own, which may be one in it that the daemon makes, such as "
            f"ipc://{path.parent}/symbiosis/{path.name}, or `chmod o-w {path.parent}`"
        )


def check_owner(owner: int | None, endpoint: str) -> None:
    """Lets a client deal with a daemon whose control socket `check_folder` lets it ask, by who has answered.

    Raises:
        UsageError: it is another user's, who got hold of the path. Another transport would lead to no better one.
    """
    if owner in (0, os.geteuid()):
        return
    with contextlib.suppress(FileNotFoundError):
        if _is_asked_by_root(owner, Path(endpoint.removeprefix("ipc://")).parent.stat()):
            return
    raise UsageError(f"the daemon at {endpoint} belongs to user {owner}; choose another address")


def _is_asked_by_root(owner: int | None, folder: os.stat_result) -> bool:
    """Whether this is root, and that is the owner of the folder, where not everybody may put a socket."""
    return os.geteuid() == 0 and owner == folder.st_uid and not folder.st_mode & stat.S_IWOTH


@contextlib.contextmanager
def for_owner_alone(socket: Path) -> Iterator[None]:
    """What is bound there is this user's alone from its first moment on: nobody can be quicker than a `chmod`.

    A process has one mask for all of its threads. Whatever else they make meanwhile is this user's alone, too; a
    folder must stay one that can be entered, so the mask leaves the socket a bit for which it has no use.
    """
    usual = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(usual)
    with contextlib.suppress(OSError):  # some file systems know no modes, and it is its owner's as it is
        socket.chmod(0o600)
