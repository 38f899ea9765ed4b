"""Clients that die: `python -m tests.transports.victims TRANSPORT ENDPOINT crowd COUNT` and `... step N`.

`crowd` forks clients one after the other, each of which fills its slots and kills itself. `step` is one client
that makes three round trips and kills itself before its n-th operation; it prints `done` if it never came to that.
"""

from __future__ import annotations

import os
import signal
import sys

from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import ADD_ONE, NEVER


def crowd(name: str, endpoint: str, count: int) -> None:
    """Nothing is opened in this process, so forking is safe."""
    for _ in range(count):
        child = os.fork()
        if child == 0:
            channel = transport(name).connect(endpoint, Token("good"), 20)
            for slot in [channel.lease_nowait() for _ in range(channel.slots)]:
                channel.buffer(slot)[:] = bytes(channel.slot_bytes)
                channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=64, out_bytes=64))
            die()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


class Doomed:
    """Counts operations down and dies before the last."""

    def __init__(self, left: int) -> None:
        self._left = left

    def before(self) -> None:
        self._left -= 1
        if self._left == 0:
            die()


def step(name: str, endpoint: str, number: int) -> None:
    """Every operation is one at which a client can die."""
    doom = Doomed(number)
    doom.before()
    channel: ClientChannel = transport(name).connect(endpoint, Token("good"), 20)
    for _ in range(3):
        doom.before()
        slot = channel.lease_nowait()
        doom.before()
        channel.buffer(slot)[:4] = b"abcd"
        doom.before()
        channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 4, 0, 64, in_bytes=4, out_bytes=4))
        doom.before()
        channel.wait(slot, 20)
        doom.before()
        assert bytes(channel.buffer(slot)[64:68]) == b"bcde"
        channel.release(slot)
    doom.before()
    channel.close()
    sys.stdout.write("done\n")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    {"crowd": crowd, "step": step}[sys.argv[3]](sys.argv[1], sys.argv[2], int(sys.argv[4]))
