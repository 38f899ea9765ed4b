"""Whose client somebody is: what limits per user, rules and tokens go by.

Both planes ask, each about its own connection, and have to say the same of the same client.
"""

from __future__ import annotations

import getpass
import os
from functools import cache
from typing import Final

__all__ = ["ANYBODY", "user_of"]

ANYBODY: Final = "tcp"
"""The user of all clients who came to a port and were asked for no key: it may be any user of this host."""


def user_of(key: str, *, here: bool) -> str:
    """Returns the user of who has shown the key of that name, or none; `here`: came to a socket on this host.

    Such a socket is for the daemon's user alone, by its mode and by the kernel's word.
    """
    if key:
        return f"key:{key}"
    return _own() if here else ANYBODY


@cache
def _own() -> str:
    """The user of this process; in a container it often has a number and no name.

    Asked once: the answer may come over a network, for which no other client is to wait, and stays the same so.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return f"uid:{os.getuid()}"
