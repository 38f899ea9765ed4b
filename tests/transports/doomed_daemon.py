"""Echo daemons that are killed or stopped.

    python -m tests.transports.doomed_daemon TRANSPORT ENDPOINT SIGKILL|SIGSTOP STEP

Each says `ready`, serves one client until that has left, and is hit before one of its lines: see `doom`.
"""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial

from symbiosis_transports.ports import ServerChannel, Transport
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import EchoDaemon
from tests.transports.doom import Doom, one_after_the_other, say


class DoomedDaemon(EchoDaemon):
    """Can be hit at every line that its thread comes to: of listening, of letting in, of a trip."""

    def __init__(self, doom: Doom, carrier: Transport, endpoint: str) -> None:
        self._doom = doom
        threading.settrace(doom.trace)
        super().__init__(carrier, endpoint)

    def ready(self, channel: ServerChannel) -> None:
        self._doom.again()
        super().ready(channel)


def serve_one(carrier: Transport, endpoint: str, doom: Doom) -> None:
    """One daemon's life."""
    daemon = DoomedDaemon(doom, carrier, endpoint)
    say("ready")
    daemon.wait_until_gone()
    daemon.close()


def main() -> None:
    """See above."""
    name, endpoint, how, step = sys.argv[1:]
    one_after_the_other(signal.Signals[how], int(step), partial(serve_one, transport(name), endpoint))


if __name__ == "__main__":
    main()
