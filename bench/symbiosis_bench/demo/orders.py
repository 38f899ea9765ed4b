"""What a tenant's process hears from the demo: start, finish, and that the demo is gone.

Start is a line on standard input, which is also the lifeline. Finish is SIGTERM; before the first `Orders` is made
it ends the process as usual.
"""

from __future__ import annotations

import signal
import threading
from typing import Final

from symbiosis_bench.lifeline import listen

__all__ = ["START", "Orders"]

START: Final = b"start\n"
"""Any line on standard input means start."""
_LOOK_S: Final = 0.05


class Orders:
    """Made and asked in the main thread, where Python runs signal handlers."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self.finish = False
        """Whether the tenant is to finish: complete the step, save, say goodbye."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        listen(lambda _: self._started.set())

    def wait_start(self) -> None:
        """Returns when the measured phase begins, or when the tenant is to finish without it."""
        while not self.finish and not self._started.wait(_LOOK_S):
            pass

    def _on_sigterm(self, *_: object) -> None:
        self.finish = True  # not the event: the handler may run while this very thread holds the event's lock
