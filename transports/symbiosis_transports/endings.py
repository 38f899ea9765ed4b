"""How a data connection ends, whatever carries it: what the daemon says last, and what that is to the client."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from symbiosis_core.errors import DaemonGoneError, RemoteProtocolError

__all__ = ["Ending", "Goodbye", "ending", "gone"]


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The daemon hangs up. `breach`: because of what the client did; otherwise because it stops."""

    reason: str
    breach: bool


class Ending(NamedTuple):
    """Of a client's channel."""

    why: str
    """What is said to whoever uses the channel afterwards."""
    error: DaemonGoneError | RemoteProtocolError
    """What is raised to whoever uses it now."""


def gone(endpoint: str, reason: str) -> Ending:
    """Returns the ending by a daemon that went away."""
    return Ending(f"the daemon is gone: {reason}", DaemonGoneError(endpoint, reason))


def ending(endpoint: str, last_words: object) -> Ending:
    """Returns the ending that the daemon's last message means. Whatever is no goodbye is garbage at that point."""
    if not isinstance(last_words, Goodbye):
        garbage = RemoteProtocolError("the daemon sent garbage on the data socket")
        return Ending("the daemon sent garbage", garbage)
    if last_words.breach:
        return Ending(last_words.reason, RemoteProtocolError(f"the daemon hung up: {last_words.reason}"))
    return gone(endpoint, last_words.reason)
