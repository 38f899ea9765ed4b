"""What a forked child does with its parent's channels: it lets go of its copies of their connections.

Otherwise the daemon would see neither the parent leave nor die.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["FORGOTTEN", "forgets_in_child"]

FORGOTTEN: Final = "this is a forked child; connect again in it, or start workers before connecting"
"""What is said in a child to whoever uses its parent's channel."""


class _Forgets(Protocol):
    def forget_in_child(self) -> None:
        """Closes what is open, in a forked child, without a word to the daemon. Nothing, where it has ended."""


_living: weakref.WeakSet[_Forgets] = weakref.WeakSet()


def forgets_in_child(channel: _Forgets) -> None:
    """Has the channel forget itself in children that are forked from now on, as long as it lives."""
    _living.add(channel)


def _forget() -> None:
    for channel in list(_living):
        channel.forget_in_child()


os.register_at_fork(after_in_child=_forget)
