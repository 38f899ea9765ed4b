"""Which clients are computing meanwhile, on cores that the daemon's products want, too.

A client that was answered a moment ago and asks for nothing is at work on its own layers. On few cores a product
that takes them all then waits at every barrier for the thread that has no core.
"""

from __future__ import annotations

from typing import Final

from symbiosis_core.ids import ClientId

__all__ = ["AtWork"]

_LINGERS_US: Final = 100_000
"""For how long after an answer: who has not asked again by then thinks of other things, or has stopped."""


class AtWork:
    """The clients that were answered last, the longest ago first."""

    def __init__(self) -> None:
        self._since_us: dict[ClientId, int] = {}

    def __repr__(self) -> str:
        return f"<AtWork {len(self._since_us)} clients>"

    def answered(self, client: ClientId, now_us: int) -> None:
        """All that a client asked for is answered."""
        self._since_us.pop(client, None)  # else it would keep its old place in the order
        self._since_us[client] = now_us

    def ended(self, client: ClientId) -> None:
        """A client waits for an answer, or has left."""
        self._since_us.pop(client, None)

    def count(self, now_us: int) -> int:
        """Returns how many clients are at work."""
        while self._since_us:
            client = next(iter(self._since_us))
            if now_us - self._since_us[client] <= _LINGERS_US:
                break
            del self._since_us[client]
        return len(self._since_us)
