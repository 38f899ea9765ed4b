"""A cable between two TCP ports that can be cut: at once, or so that nobody is told."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from typing import Self


class Cable:
    """Carries every connection to `port` on to `far`, both on the loopback, in a thread of its own."""

    def __init__(self, port: int, far: int) -> None:
        self._far = far
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
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._door:
                        self._accept()
                    elif not self._dumb:
                        self._pass_on(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._door.accept()
        if self._down:
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._far), 5)
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
                self._other[end].sendall(data)
                return
        except OSError:
            pass
        self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._other.get(end)):
            if one is not None and self._other.pop(one, None) is not None:
                self._selector.unregister(one)
                one.close()
