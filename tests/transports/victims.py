"""Clients that are killed or stopped, and one that forks.

    python -m tests.transports.victims TRANSPORT ENDPOINT crowd COUNT
    python -m tests.transports.victims TRANSPORT ENDPOINT SIGKILL|SIGSTOP STEP
    python -m tests.transports.victims TRANSPORT ENDPOINT fork

`crowd` forks clients one after the other, each of which fills its slots and kills itself. With a signal, clients
make three round trips each, and are hit before their first line, then STEP lines later each time: see `doom`.
`fork` is a client that forks, says so, and leaves at the next line that it reads; its child lives until standard
input ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from symbiosis_core.errors import ClosedError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call, Transport
from symbiosis_transports.testing import ADD_ONE, NEVER, add_one
from tests.transports.carriers import carrier
from tests.transports.doom import Doom, one_after_the_other


def crowd(transport: Transport, endpoint: str, count: int) -> None:
    """Nothing is opened in this process, so forking is safe."""
    for _ in range(count):
        child = os.fork()
        if child == 0:
            channel = transport.connect(endpoint, Token("good"), 20)
            for slot in [channel.lease_nowait() for _ in range(channel.slots)]:
                channel.buffer(slot)[:] = bytes(channel.slot_bytes)
                channel.publish(slot, Call(NEVER, Direction.FORWARD, 1, 0, 64, in_bytes=64, out_bytes=64))
            os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def three_trips(transport: Transport, endpoint: str, doom: Doom) -> None:
    """Every line is one at which a client can be hit: of attaching, of each trip, of leaving."""
    sys.settrace(doom.trace)
    channel = transport.connect(endpoint, Token("good"), 20)
    for _ in range(3):
        doom.again()
        slot = channel.lease_nowait()
        channel.buffer(slot)[:4] = b"abcd"
        channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 4, 0, 64, in_bytes=4, out_bytes=4))
        channel.wait(slot, 20)
        assert bytes(channel.buffer(slot)[64:68]) == b"bcde"
        channel.release(slot)
    channel.close()
    sys.settrace(None)


def fork(transport: Transport, endpoint: str) -> None:
    """The child tries to use the channel, and looks whether it has any connection.

    It waits at a pipe of its own: were it to read standard input as well, either could take the other's line.
    """
    channel = transport.connect(endpoint, Token("good"), 20)
    assert add_one(channel, b"abc", 3)
    slot = channel.lease_nowait()
    call = Call(ADD_ONE, Direction.FORWARD, 4, 0, 64, in_bytes=4, out_bytes=4)
    channel.publish(slot, call)
    ended, end = os.pipe()
    if os.fork() == 0:
        os.close(end)
        for use in (channel.lease_nowait, lambda: channel.wait(slot, 1), lambda: channel.publish(slot, call)):
            with contextlib.suppress(ClosedError):
                use()
                os._exit(1)
        say(" ".join(["held", *connections()]))
        os.read(ended, 1)
        os._exit(0)
    channel.wait(slot, 20)
    channel.release(slot)
    assert add_one(channel, b"abc", 3)
    say("forked")
    sys.stdin.readline()
    channel.close()
    sys.stdin.read()
    os.close(end)
    os.wait()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def connections() -> list[str]:
    """Whom the sockets of this process are connected to."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as end:
            found.append(str(end.getpeername()))
    return [peer for peer in found if peer]


def main() -> None:
    """See above."""
    name, endpoint, how, *number = sys.argv[1:]
    transport = carrier(name, endpoint)
    if how == "crowd":
        crowd(transport, endpoint, int(number[0]))
    elif how == "fork":
        fork(transport, endpoint)
    else:
        one_after_the_other(signal.Signals[how], int(number[0]), partial(three_trips, transport, endpoint))


if __name__ == "__main__":
    main()
