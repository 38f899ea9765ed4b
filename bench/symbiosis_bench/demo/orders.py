"""What a tenant's process hears from the demo: start, finish, and that the demo is gone.

Start is a line on standard input. Finish is SIGTERM; before the first `Orders` is made it ends the process as
usual. Standard input is also the lifeline: when it ends, the parent has ended, however it did, and nobody is left
to report to.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

__all__ = ["ORPHANED", "START", "Orders"]

START: Final = b"start\n"
"""Anything on standard input means start."""
ORPHANED: Final = 3
"""The exit status of a tenant whose parent is gone."""
_LOOK_S: Final = 0.05


class Orders:
    """Made and asked in the main thread, where Python runs signal handlers."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self.finish = False
        """Whether the tenant is to finish: complete the step, save, say goodbye."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def wait_start(self) -> None:
        """Returns when the measured phase begins, or when the tenant is to finish without it."""
        while not self.finish and not self._started.wait(_LOOK_S):
            pass

    def _on_sigterm(self, *_: object) -> None:
        self.finish = True  # not the event: the handler may run while this very thread holds the event's lock

    def _listen(self) -> None:
        # Not through sys.stdin: a thread that waits in its buffer makes the interpreter abort at exit (3.11).
        while os.read(0, len(START)):
            self._started.set()
        os._exit(ORPHANED)  # the main thread may be anywhere, also in a call that never returns
