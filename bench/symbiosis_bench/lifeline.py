"""Standard input as orders and as a lifeline: when it ends, the parent has ended, however it did.

Then nobody is left to report to, and the process ends, wherever its main thread is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["ORPHANED", "listen"]

ORPHANED: Final = 3
"""The exit status of a process whose parent is gone."""
_PIECE_BYTES: Final = 1 << 16


def listen(hear: Callable[[bytes], object], descriptor: int = 0) -> None:
    """Starts the thread that gives `hear` every line, without its end, until there are no more."""
    threading.Thread(target=_listen, args=(hear, descriptor), name="lifeline", daemon=True).start()


def _listen(hear: Callable[[bytes], object], descriptor: int) -> None:
    # Not through sys.stdin: a thread that waits in its buffer makes the interpreter abort at exit (3.11).
    begun = b""
    while piece := os.read(descriptor, _PIECE_BYTES):
        *lines, begun = (begun + piece).split(b"\n")
        for line in lines:
            hear(line)
    os._exit(ORPHANED)  # the main thread may be anywhere, also in a call that never returns
