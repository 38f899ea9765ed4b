"""A channel that fails on purpose."""

from __future__ import annotations

from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import SlotIndex
from symbiosis_transports.ports import Call, ChannelStatistics, ClientChannel

__all__ = ["FaultyChannel"]


class FaultyChannel:
    """A client channel whose n-th operation fails as if the daemon had died. For anomaly loops."""

    def __init__(self, inner: ClientChannel, fail_at: int) -> None:
        self._inner = inner
        self._left = fail_at
        self.failed = False

    @property
    def slots(self) -> int:
        """As the inner channel."""
        return self._inner.slots

    @property
    def slot_bytes(self) -> int:
        """As the inner channel."""
        return self._inner.slot_bytes

    def lease_nowait(self) -> SlotIndex:
        """May fail."""
        self._count()
        return self._inner.lease_nowait()

    def buffer(self, slot: SlotIndex) -> memoryview:
        """Never fails."""
        return self._inner.buffer(slot)

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """May fail."""
        self._count()
        self._inner.publish(slot, call)

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """May fail."""
        self._count()
        self._inner.wait(slot, timeout_s)

    def release(self, slot: SlotIndex) -> None:
        """Never fails."""
        self._inner.release(slot)

    def close(self) -> None:
        """Never fails."""
        self._inner.close()

    def statistics(self) -> ChannelStatistics:
        """As the inner channel."""
        return self._inner.statistics()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.failed = True
            self._inner.close()
            raise DaemonGoneError("faulty", "this operation was chosen to fail")
