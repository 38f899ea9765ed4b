"""What a channel has besides where both of its ends compute on the cores of one host."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from symbiosis_core.spared_core import Place

__all__ = ["HearsOfPlace", "SaysPlace"]


@runtime_checkable
class HearsOfPlace(Protocol):
    """The client's end of such a channel."""

    def place(self) -> Place | None:
        """Where the client is asked to compute, as of its last answer; None: anywhere."""

    def shares_core(self, shares: bool) -> None:
        """Says whether the thread that waits is on the core of the daemon's: then nobody looks for an answer."""


@runtime_checkable
class SaysPlace(Protocol):
    """The daemon's end of such a channel."""

    def ask_to(self, place: Place | None) -> None:
        """Asks the client to compute there from its next answer on; None: anywhere."""
