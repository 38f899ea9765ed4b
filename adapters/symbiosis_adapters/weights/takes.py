"""What this process has taken of a base that it shares, and that its user is told.

A taken weight is right and silent: nothing fails, and yet its layer is computed here from then on, and memory may
be there twice. So when a forward begins after that, one line of the log says how much it is and who asked. It is
said again only where what was taken has more than doubled: a head that is trained must not hide that everything
else was taken later.
"""

from __future__ import annotations

import threading
from typing import Any, Self

from symbiosis_core.logs import event, get_logger

__all__ = ["Takes"]

log = get_logger(__name__)


class Takes:
    """The takes of one model, and of its copies. Several threads may note them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights = 0
        self._bytes = 0
        self._told_bytes = 0
        self._askers: dict[str, None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Takes], tuple[()]]:
        """What a process has taken is told by that process."""
        return Takes, ()

    def note(self, nbytes: int, asker: str) -> None:
        """Notes that `asker` had a weight of so many bytes taken."""
        with self._lock:
            self._weights += 1
            self._bytes += nbytes
            self._askers[asker] = None

    def tell(self) -> None:
        """Says what was taken, if that is news."""
        if self._bytes <= 2 * self._told_bytes:
            return
        with self._lock:
            self._told_bytes = self._bytes
            log.warning(
                event(
                    "weights of the shared base were taken: their layers are computed in this process from now "
                    "on, and what is written to takes memory of its own (docs/gotchas.md, what lent weights cost)",
                    weights=self._weights,
                    megabytes=round(self._bytes / 1e6, 1),
                    asked_by="; ".join(self._askers),
                )
            )
