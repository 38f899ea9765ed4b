"""Where tables are printed: as wide as the terminal, and wide enough where there is none."""

from __future__ import annotations

from typing import Final

from rich.console import Console

__all__ = ["wide_console"]

_LOG_WIDTH: Final = 140
"""Columns where there is no terminal."""


def wide_console() -> Console:
    """Returns the console of standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)
