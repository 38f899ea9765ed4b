"""A cable between two TCP ports that can be cut, at once or so that nobody is told, and that may be a bad one.

As a process, `python -m tests.transports.cable PORT HOST FAR`, it is as bad as a line that loses packets: to those
who speak TCP that is bytes that come late, now and then very late, and once a connection that breaks. It carries
PORT and the next port, on this host, to FAR and the next, on that one.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from collections import deque
from random import Random
from types import TracebackType
from typing import Final, Self

DELAY_S: Final = 0.002
LOST_S: Final = 0.2
"""After which TCP sends again what was lost, about."""
LOST: Final = 0.01
CUT_AFTER_BYTES: Final = 1 << 18
"""Of rows: the connection that has carried so many breaks, once."""


class Cable:
    """Carries every connection to `port`, on the loopback, on to `far`, in a thread of its own."""

    def __init__(
        self, port: int, far: int, host: str = "127.0.0.1", *, bad: bool = False, cut_after_bytes: int = 0
    ) -> None:
        """`cut_after_bytes`: of those that a bad one has carried, all connections together; 0: it is not cut."""
        self._far = (host, far)
        self._bad = Random(port) if bad else None
        self._late: dict[socket.socket, deque[tuple[float, bytes]]] = {}
        """What is under way to each end, and when it is there."""
        self._carried_bytes, self._cut_after_bytes = 0, cut_after_bytes
        self._door = socket.create_server(("127.0.0.1", port))
        self._other: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._dumb = self._down = self._over = False
        self._thread = threading.Thread(target=self._carry, name="cable", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._thread.join(10)
        self.cut()
        self._door.close()
        self._selector.close()

    def cut(self) -> None:
        """Ends all connections; new ones end at once, until `mend`."""
        with self._lock:
            self._down = True
            for end in list(self._other):
                self._drop(end)

    def mend(self) -> None:
        """Carries again."""
        with self._lock:
            self._down = self._dumb = False

    def fall_silent(self) -> None:
        """From now on nothing is carried, and nothing is closed, as where somebody has pulled a plug."""
        with self._lock:
            self._dumb = True

    def _carry(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(DELAY_S / 4 if self._bad else 0.05):
                with self._lock:
                    if key.fileobj is self._door:
                        self._accept()
                    elif not self._dumb:
                        self._pass_on(key.fileobj)
            with self._lock:
                self._deliver()

    def _accept(self) -> None:
        near, _ = self._door.accept()
        if self._down:
            near.close()
            return
        try:
            far = socket.create_connection(self._far, 5)
        except OSError:
            near.close()
            return
        self._other |= {near: far, far: near}
        for end in (near, far):
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: object) -> None:
        assert isinstance(end, socket.socket)
        if end not in self._other:
            return
        try:
            if data := end.recv(1 << 16):
                self._send(self._other[end], data)
                return
        except OSError:
            pass
        self._drop(end)

    def _send(self, end: socket.socket, data: bytes) -> None:
        if self._bad is None:
            end.sendall(data)
            return
        before, self._carried_bytes = self._carried_bytes, self._carried_bytes + len(data)
        if before < self._cut_after_bytes <= self._carried_bytes:
            raise ConnectionResetError
        under_way = self._late.setdefault(end, deque())
        due = time.monotonic() + (LOST_S if self._bad.random() < LOST else DELAY_S)
        under_way.append((max(due, under_way[-1][0]) if under_way else due, data))  # the order is kept

    def _deliver(self) -> None:
        for end, under_way in list(self._late.items()):
            try:
                while under_way and under_way[0][0] <= time.monotonic():
                    end.sendall(under_way.popleft()[1])
            except OSError:
                self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._other.get(end)):
            if one is not None and self._other.pop(one, None) is not None:
                self._selector.unregister(one)
                self._late.pop(one, None)
                one.close()


def main() -> None:
    """Carries until standard input ends."""
    port, host, far = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    rows = Cable(port + 1, far + 1, host, bad=True, cut_after_bytes=CUT_AFTER_BYTES)
    with Cable(port, far, host, bad=True), rows:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
