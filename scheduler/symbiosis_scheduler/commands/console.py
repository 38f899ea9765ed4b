"""Where tables are printed, as wide as a terminal or wide enough without one, and what clients may put there."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

__all__ = ["verbatim", "wide_console"]

_LOG_WIDTH: Final = 160
"""Columns where there is no terminal."""


def wide_console() -> Console:
    """Returns the console of standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def verbatim(text: str) -> Text:
    """Returns what a client says of itself to be read and no more: no markup, nothing that moves a cursor."""
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text))
