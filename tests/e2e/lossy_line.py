"""A line between two network interfaces that is slow and loses packets: the real thing to TCP.

    python -m tests.e2e.lossy_line INTERFACE INTERFACE DELAY_S LOSS

What netem does in the kernel, for kernels that have none. Frames are carried in the order in which they came. It
says `ready`, and carries until standard input ends.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections import deque
from random import Random
from typing import Final

_VNET_HDR: Final = 15
"""PACKET_VNET_HDR: frames come with what is still to be done to them, such as a checksum, and leave with it."""
_SOL_PACKET: Final = 263
_ALL_PROTOCOLS: Final = 0x0003
_MOST_BYTES: Final = 1 << 17
_OWN: Final = 4
"""PACKET_OUTGOING: what this process has sent itself."""


class LossyLine:
    """Both directions of it."""

    def __init__(self, interfaces: tuple[str, str], delay_s: float, loss: float) -> None:
        self._ends = [_end(interface) for interface in interfaces]
        self._delay_s, self._loss = delay_s, loss
        self._random = Random(7)
        self._under_way: deque[tuple[float, socket.socket, bytes]] = deque()

    def carry(self) -> None:
        """Carries until standard input ends."""
        poll = select.poll()
        for one in (*self._ends, sys.stdin):
            poll.register(one, select.POLLIN)
        while True:
            left_s = self._under_way[0][0] - time.monotonic() if self._under_way else 1.0
            for ready, _ in poll.poll(max(0.0, left_s) * 1000):
                if ready == sys.stdin.fileno():
                    return
                near, far = self._ends if ready == self._ends[0].fileno() else reversed(self._ends)
                self._take(near, far)
            while self._under_way and self._under_way[0][0] <= time.monotonic():
                _, far, frame = self._under_way.popleft()
                with contextlib.suppress(OSError):  # the cable is out
                    far.send(frame)

    def _take(self, near: socket.socket, far: socket.socket) -> None:
        frame, origin = near.recvfrom(_MOST_BYTES)
        if origin[2] != _OWN and self._random.random() >= self._loss:
            self._under_way.append((time.monotonic() + self._delay_s, far, frame))


def _end(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    end.bind((interface, _ALL_PROTOCOLS))
    return end


def main() -> None:
    """See above."""
    first, second, delay_s, loss = sys.argv[1:]
    line = LossyLine((first, second), float(delay_s), float(loss))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    line.carry()


if __name__ == "__main__":
    main()
