"""Gives memory back to the system when a process rests.

glibc keeps most of what a program frees for what it will ask for next. After four training clients had worked on
a base of 1.1 billion parameters, the daemon held 320 MB so, and each client 85. Giving it back after every step
would cost the next step its pages anew, 0.4 ms a megabyte where it was measured. So it is given back after a
pause, which is told by the processor time of the whole process: whoever computes does not rest, and a loop that
trains never pauses so long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["LOOK_EVERY_S", "Resting"]

LOOK_EVERY_S: Final = 2.0
"""How often a process looks whether it rests. It is trimmed one to two times so long after its last work."""
_IDLE_SHARE: Final = 0.05
"""Of one core: who used less of it since the last look has rested."""
_WORTH_S: Final = 0.1
"""Processor time after which there may be something to give back."""


class Resting:
    """Tells when a process has begun to rest, once for every time it has worked."""

    def __init__(self, cpu_s: Callable[[], float] = time.process_time, look_every_s: float = LOOK_EVERY_S) -> None:
        """`cpu_s` is the processor time of all threads of the process."""
        self._cpu_s = cpu_s
        self._idle_s = _IDLE_SHARE * look_every_s
        self._last_s = self._trimmed_s = cpu_s()

    def look(self) -> bool:
        """Whether the process has rested since the last look, `look_every_s` ago, and worked before that."""
        now_s, last_s = self._cpu_s(), self._last_s
        self._last_s = now_s
        if now_s - last_s > self._idle_s or now_s - self._trimmed_s < _WORTH_S:
            return False
        self._trimmed_s = now_s
        return True
