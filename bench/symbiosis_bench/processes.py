"""Processes of a run: started, heard, watched, and ended whatever happens to the run.

Every child writes its standard error into a log of its own, of which the end is shown where the child fails. On
the way out, by whatever door, `Children` ends all that still run; and should the parent itself be killed, the end
of their standard input tells the children (`lifeline`), and a daemon watches its parent.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Generic, Self, TypeVar

from symbiosis_bench.interruption import kept_waiting
from symbiosis_bench.lines import Reader, Unreadable
from symbiosis_core.errors import SymbiosisError

__all__ = ["Child", "ChildFailedError", "Children"]

_TAIL_LINES: Final = 20
_STOP_S: Final = 10.0
"""How long a child may take to end by itself before it is killed. The daemon needs 8 s to drain at most."""
_LOOK_S: Final = 0.05

M = TypeVar("M")
"""What a child can say."""


class ChildFailedError(SymbiosisError):
    """A process of the run ended, or said what it should not have."""

    def __init__(self, name: str, reason: str, tail: str) -> None:
        self.name = name
        self.reason = reason
        self.tail = tail
        """The last lines of its standard error."""
        super().__init__(name, reason, tail)

    def __str__(self) -> str:
        last = f"; the last it wrote:\n{self.tail}" if self.tail else "; it wrote nothing"
        return f"the process {self.name!r} {self.reason}{last}"


class Child:
    """One process. Made by `Children.start`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        hear: Callable[[bytes], object] | None = None,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if hear is not None else stderr,
                stderr=stderr,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
            )
        self._reader: threading.Thread | None = None
        if hear is not None:
            assert self._process.stdout is not None  # it is a pipe
            arguments = (self._process.stdout, hear)
            self._reader = threading.Thread(target=_read, args=arguments, name=f"reads {name}", daemon=True)
            self._reader.start()

    def __repr__(self) -> str:
        return f"<Child {self.name!r} pid={self.pid} returncode={self._process.poll()}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def failure(self, reason: str) -> ChildFailedError:
        """Returns the error that says `reason` and shows the end of the log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return ChildFailedError(self.name, reason, "\n".join(lines[-_TAIL_LINES:]))

    def how_it_ended(self) -> str:
        status = self._process.returncode
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def succeeded(self) -> bool:
        return self._process.poll() == 0

    def write(self, line: bytes) -> None:
        """Writes to its standard input; a child that has ended is found by `Children.check`."""
        assert self._process.stdin is not None  # it is a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def terminate(self) -> None:
        """Asks it to finish."""
        self._process.terminate()

    def stop(self, within_s: float) -> None:
        """Ends it: asks, and kills what has not ended after `within_s`. For one that ended, tidies up."""
        assert self._process.stdin is not None  # it is a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self.ended:
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._reader is not None:
            self._reader.join()


class Children(Generic[M]):
    """All of them. Leaving the block ends every one that still runs, the youngest first.

    `read` makes messages of lines.
    """

    def __init__(self, logs: Path, read: Reader[M]) -> None:
        self._logs = logs
        self._read = read
        self._children: dict[str, Child] = {}
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        deadline = time.monotonic() + _STOP_S
        while self._children:
            _, child = self._children.popitem()
            child.stop(max(0.0, deadline - time.monotonic()))

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, speaks: bool = True
    ) -> Child:
        """Starts a process. One that `speaks` writes messages to standard output; another's goes to its log."""

        def hear(line: bytes) -> None:
            self._inbox.put((name, self._read(line)))

        with kept_waiting():
            child = Child(name, command, environment, self._logs / f"{name}.log", hear if speaks else None)
            self._children[name] = child
        return child

    def received(self) -> Iterator[tuple[str, M]]:
        """Yields what has been said since the last call, with who said it.

        Raises:
            ChildFailedError: it was no message.
        """
        while (heard := self.hear(0)) is not None:
            yield heard

    def hear(self, within_s: float) -> tuple[str, M] | None:
        """Returns the next that is said within that time, with who said it. Costs no processor time meanwhile.

        Raises:
            ChildFailedError: it was no message.
        """
        try:
            name, message = self._inbox.get(timeout=within_s) if within_s else self._inbox.get_nowait()
        except queue.Empty:
            return None
        if isinstance(message, Unreadable):
            raise self._children[name].failure(f"said {message.line!r}, which is no message")
        return name, message

    def check(self) -> None:
        """Looks whether all still run.

        Raises:
            ChildFailedError: one has ended, and none was asked to.
        """
        for child in self._children.values():
            if child.ended:
                raise child.failure(f"{child.how_it_ended()} while it was needed")

    def end(self, children: Sequence[Child]) -> None:
        """Ends these, and forgets them and what they have said."""
        for child in children:
            if not child.ended:
                child.terminate()
        deadline = time.monotonic() + _STOP_S
        for child in children:
            child.stop(max(0.0, deadline - time.monotonic()))
            self._children.pop(child.name, None)
        while not self._inbox.empty():
            self._inbox.get_nowait()

    def finish(self, children: Sequence[Child], within_s: float) -> None:
        """Asks the processes to finish, and waits until they have, with all they had to say received.

        Raises:
            ChildFailedError: one failed, or took longer than `within_s`.
        """
        for child in children:
            child.terminate()
        deadline = time.monotonic() + within_s
        while not all(child.ended for child in children):
            for child in children:
                if child.ended and not child.succeeded():
                    raise child.failure(child.how_it_ended())
            if time.monotonic() > deadline:
                late = next(child for child in children if not child.ended)
                raise late.failure(f"has not finished within {within_s:g} s")
            time.sleep(_LOOK_S)
        for child in children:
            if not child.succeeded():
                raise child.failure(child.how_it_ended())
            child.stop(0)


def _read(stdout: IO[bytes], hear: Callable[[bytes], object]) -> None:
    with stdout:
        for line in stdout:
            hear(line)
