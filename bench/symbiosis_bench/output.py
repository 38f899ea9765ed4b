"""Where a benchmark's figures go: a terminal or a log, and files."""

from __future__ import annotations

from typing import Final

from rich.console import Console

from symbiosis_scheduler.commands.console import check_writable

__all__ = ["check_writable", "wide_console"]

_LOG_WIDTH: Final = 120
"""Columns of a table where there is no terminal."""


def wide_console(columns: int = _LOG_WIDTH) -> Console:
    """Returns the terminal, or a log that is so wide."""
    console = Console()
    return console if console.is_terminal else Console(width=columns)
