"""Echo daemons that are killed or stopped: `python -m tests.transports.doomed_daemon TRANSPORT ENDPOINT SIGNAL`.

Each says `ready`, serves one client until that has left, and is hit before one of its operations: see `doom`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from symbiosis_core.ids import Token
from symbiosis_transports.ports import Grant, Peer, ServerChannel, Transport
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import EchoDaemon
from tests.transports.doom import Doom, one_after_the_other, say

OPERATIONS: Final = ("disarm", "take", "buffer", "answer", "ring", "arm")


class DoomedDaemon(EchoDaemon):
    """Every operation on a channel, and what comes before there is one, is a point at which it can be hit."""

    def __init__(self, doom: Doom, carrier: Transport, endpoint: str) -> None:
        self._doom = doom
        super().__init__(carrier, endpoint)

    def redeem(self, token: Token, peer: Peer) -> Grant:
        self._doom.before()
        return super().redeem(token, peer)

    def attached(self, channel: ServerChannel) -> None:
        self._doom.before()
        for name in OPERATIONS:
            setattr(channel, name, partial(self._after_doom, getattr(channel, name)))
        super().attached(channel)

    def _after_doom(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self._doom.before()
        return operation(*arguments)


def serve_one(carrier: Transport, endpoint: str, doom: Doom) -> None:
    """One daemon's life."""
    daemon = DoomedDaemon(doom, carrier, endpoint)
    say("ready")
    daemon.wait_until_gone()
    daemon.close()


def main() -> None:
    """See above."""
    name, endpoint, how = sys.argv[1:]
    one_after_the_other(signal.Signals[how], partial(serve_one, transport(name), endpoint))


if __name__ == "__main__":
    main()
