"""The control plane: a client asks, the daemon answers. What may be relied on, `ports` says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from symbiosis_core.wire import Reply, Request

__all__ = [
    "Answer",
    "Link",
    "LinkServer",
]


Answer = Callable[[Request, str], Awaitable[Reply]]
"""Maps a request, and the name of the key that its sender has shown, or an empty one, to the reply.

It may raise `RefusedError`.
"""


class Link(Protocol):
    """The client's end of the control plane. One thread, one question at a time."""

    def ask(self, request: Request) -> Reply:
        """Returns the daemon's answer, of the kind that the request calls for.

        Raises:
            RefusedError: the daemon said no; the conversation goes on.
            DaemonGoneError: nobody is there, or it went away.
            DaemonSilentError: somebody is there and does not answer.
            RemoteProtocolError: the answer is none.
            ClosedError: the link is closed, or its parent's: this is a forked child.
        """

    def close(self) -> None:
        """Ends the conversation. May be called twice."""


class LinkServer(Protocol):
    """The daemon's end of the control plane, made with an address that its maker has claimed and an `Answer`."""

    def open(self) -> None:
        """Listens from now on; who asks waits for `serve`.

        Raises:
            UsageError: the address cannot be used, or anybody could come in over a network.
        """

    async def serve(self) -> None:
        """Answers, until cancelled or closed."""

    def close(self) -> None:
        """Gives the address back. May be called twice."""
