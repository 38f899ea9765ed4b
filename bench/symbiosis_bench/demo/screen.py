"""Where the demo shows itself: a live table on a terminal, plain lines now and then in a log."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from symbiosis_bench.demo.standing import Standing
from symbiosis_bench.demo.table import lines, picture

__all__ = ["LiveScreen", "PlainScreen", "Screen", "open_screen"]

_PLAIN_EVERY_S: Final = 5.0


class Screen(Protocol):
    """What the course of the demo needs of a screen. A context manager: leaving it restores the terminal."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, what: str, elapsed_s: float | None = None) -> None:
        """Tells what is going on, and since when; may be called again and again."""

    def show(self, standing: Standing) -> None:
        """Shows the figures."""


class LiveScreen:
    """On a terminal: one picture that changes, and is gone at the end."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, transient=True, refresh_per_second=5)
        self._spinner = Spinner("dots")

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def say(self, what: str, elapsed_s: float | None = None) -> None:
        self._spinner.update(text=f"{what} …" if elapsed_s is None else f"{what} … {elapsed_s:.0f} s")
        self._live.update(self._spinner)

    def show(self, standing: Standing) -> None:
        self._live.update(picture(standing))


class PlainScreen:
    """In a log: every phase once, and the figures every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = ""
        self._shown_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def say(self, what: str, elapsed_s: float | None = None) -> None:
        if what != self._said:
            self._said = what
            self._print(what)

    def show(self, standing: Standing) -> None:
        if standing.elapsed_s - self._shown_s >= _PLAIN_EVERY_S:
            self._shown_s = standing.elapsed_s
            for line in lines(standing):
                self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def open_screen(console: Console) -> Screen:
    """Returns the screen that suits where the output goes."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)
