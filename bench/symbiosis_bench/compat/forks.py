"""Children by fork: each has the libraries that the parent has imported, and nothing else to wait for.

The parent never computes, so it has no threads, and forking it is safe. A child writes lines into a pipe; the end
of that pipe says that it is gone, however it went. Should the parent be killed, its children notice (`lifeline`).
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from symbiosis_bench.lifeline import listen

__all__ = ["Fork", "Say"]

Say = Callable[[bytes], None]
_PIECE_BYTES: Final = 1 << 16
_FAILED: Final = 1
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.01


class Fork:
    """A forked process that does one thing and says what comes of it. Leaving the block ends it."""

    def __init__(self, work: Callable[[Say], None], log: Path) -> None:
        """Starts `work` in a child, whose other output goes to `log`."""
        said, says = os.pipe()
        alive, ends = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(said)
            os.close(ends)
            _be_child(work, says, alive, log)
        os.close(says)
        os.close(alive)
        self._said, self._ends, self._begun = said, ends, b""
        self._lines: list[bytes] = []
        self._status: int | None = None

    def __repr__(self) -> str:
        return f"<Fork pid={self.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ends)
        os.close(self._said)
        self._end()

    def hear(self, within_s: float) -> bytes | None:
        """Returns the next line without its end; None when there will be no more.

        Raises:
            TimeoutError: nothing was said in time.
        """
        deadline = time.monotonic() + within_s
        while not self._lines:
            ready, _, _ = select.select([self._said], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            piece = os.read(self._said, _PIECE_BYTES)
            if not piece:
                return None
            *self._lines, self._begun = (self._begun + piece).split(b"\n")
        return self._lines.pop(0)

    def how_it_ended(self) -> str:
        """Says how, once its lines have ended."""
        status = os.waitstatus_to_exitcode(self._wait())
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def _wait(self) -> int:
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return self._status

    def _end(self) -> None:
        if self._status is not None:
            return
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
                return
            time.sleep(_LOOK_S)
        os.kill(self.pid, signal.SIGKILL)
        self._wait()


def _be_child(work: Callable[[Say], None], says: int, alive: int, log: Path) -> None:
    """Never returns: what the parent was about to do is not the child's."""
    status = _FAILED
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children in order
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, 1)
        os.dup2(written, 2)
        listen(lambda _: None, alive)
        work(lambda line: _write(says, line + b"\n"))
        status = 0
    except BaseException:  # noqa: BLE001  the log is where it is told
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]
