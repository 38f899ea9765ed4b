"""What the two ends share: slots of plain memory, a lock, and a condition to sleep on."""

from __future__ import annotations

import mmap
import threading

from symbiosis_core.errors import RefusalCode
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.ports import Call

__all__ = ["Exchange", "Place"]


class Place:
    """One slot: its memory, and where its journey stands."""

    def __init__(self, slot_bytes: int) -> None:
        self.rows = memoryview(mmap.mmap(-1, slot_bytes))  # page aligned, which a bytearray is not
        self.published = 0
        """Generation that the client published last."""
        self.answered = 0
        """Generation that the daemon answered last."""
        self.call: Call | None = None
        self.refusal: RefusalCode | None = None


class Exchange:
    """The state of one channel, guarded by `changed`."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.places = [Place(slot_bytes) for _ in range(slots)]
        self.slot_bytes = slot_bytes
        self.changed = threading.Condition()
        self.daemon_sleeps = True
        self.client_gone = False
        self.daemon_gone: Goodbye | None = None
        """The reason, and whether the client had broken the protocol."""
