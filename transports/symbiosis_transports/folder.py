"""Where a socket stands: nobody else may be able to put another one in its place.

A socket's mode says who may connect to it. Who may rename and replace it, its folder's says. Both sides look there
for the control socket, since ZeroMQ does not tell a client whom it has reached.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from symbiosis_core.errors import UsageError

__all__ = ["check_folder"]


def check_folder(path: Path) -> None:
    """Lets a socket be used that is this user's, or root's, in a folder where that stays so.

    Root may use a folder of somebody else, as in a container into which one is mounted.

    Raises:
        UsageError: the socket or its folder are another user's, or everybody may exchange what stands there.
    """
    trusted = (0, os.geteuid())
    with contextlib.suppress(FileNotFoundError):
        if (owner := path.lstat().st_uid) not in trusted:
            raise UsageError(f"{path} belongs to user {owner}; choose another address")
    folder = path.parent.stat()
    if folder.st_uid not in trusted and os.geteuid() != 0:
        raise UsageError(
            f"{path.parent} belongs to user {folder.st_uid}, who could put another socket in the place of "
            f"{path.name}; choose a folder of your own"
        )
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"everybody may write into {path.parent}, and put another socket in the place of {path.name}; "
            f"choose a folder of your own, or `chmod o-w {path.parent}`"
        )
