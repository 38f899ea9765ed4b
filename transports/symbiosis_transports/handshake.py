"""How a data connection begins, whatever carries it: each side's look at what the other said first."""

from __future__ import annotations

from typing import Annotated, Protocol, TypeVar

from msgspec import Meta

from symbiosis_core.errors import DaemonGoneError, RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.protocol import refusal
from symbiosis_core.wire import Refused
from symbiosis_transports.endings import Goodbye

__all__ = ["SlotBytes", "SlotCount", "check_client", "let_in"]

SlotCount = Annotated[int, Meta(ge=1, le=4096)]
"""What a client believes of a daemon that says how many slots it has: it keeps something for each."""
SlotBytes = Annotated[int, Meta(ge=1, le=1 << 40)]
"""And of how large they are, before it looks whether there is as much."""


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


T = TypeVar("T", bound=_Versioned)


def check_client(version: int, ours: int) -> None:
    """The daemon's look at a client's version.

    Raises:
        RefusedError: it is another.
    """
    if version != ours:
        raise RefusedError(
            RefusalCode.VERSION,
            f"the client speaks data plane version {version}, the daemon {ours}",
            "install the same release of symbiosis-llm on both sides",
        )


def let_in(endpoint: str, answer: object, wanted: type[T], ours: int) -> T:
    """The client's look at the daemon's answer. Returns it where it is of the wanted kind, and of this version.

    Raises:
        RefusedError: the daemon says no.
        DaemonGoneError: it hung up.
        RemoteProtocolError: it is no daemon of this version.
    """
    if isinstance(answer, Refused):
        raise refusal(answer)
    if isinstance(answer, Goodbye):
        raise DaemonGoneError(endpoint, answer.reason)
    if not isinstance(answer, wanted):
        raise RemoteProtocolError(f"the daemon at {endpoint} answered {answer!r:.100}, not {wanted.__name__}")
    if answer.version != ours:
        raise RemoteProtocolError(f"the daemon speaks data plane version {answer.version}, not {ours}")
    return answer
