"""A client of an echo daemon whose limits of time are put to the test: `... clock_client TRANSPORT ENDPOINT`."""

from __future__ import annotations

import sys
import time

from symbiosis_core.errors import DaemonSilentError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import NEVER, add_one

SILENCE_S = 0.3


def main() -> None:
    """Many answers, none of which is late; one that never comes, which is late at its time and not before."""
    channel = transport(sys.argv[1]).connect(sys.argv[2], Token("good"), 20)
    assert all(add_one(channel, b"abc", 3) for _ in range(300))
    slot = channel.lease_nowait()
    channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=1, out_bytes=1))
    asked = time.monotonic()
    try:
        channel.wait(slot, SILENCE_S)
    except DaemonSilentError:
        assert time.monotonic() - asked >= SILENCE_S - 0.01  # ZeroMQ waits for whole milliseconds
    else:
        raise AssertionError("somebody has answered")
    assert add_one(channel, b"abc", 3)
    channel.close()


if __name__ == "__main__":
    main()
