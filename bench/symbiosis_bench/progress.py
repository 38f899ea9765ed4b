"""What a person sees while the benchmark runs: a line that changes on a terminal, lines in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console

__all__ = ["Progress"]


class Progress:
    """A context manager: leaving it restores the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")
        self._began_s = time.monotonic()
        self._said = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status.stop()

    def say(self, what: str) -> None:
        """Tells what is going on now."""
        if self._console.is_terminal:
            self._status.update(f"{self._elapsed()}  {what}")
        elif what != self._said:
            self._said = what
            self.tell(what)

    def tell(self, line: str) -> None:
        """Prints what shall stay."""
        self._console.print(f"{self._elapsed()}  {line}", markup=False, highlight=False, soft_wrap=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began_s), 60)
        return f"{minutes}:{seconds:02}"
