"""Where a benchmark's figures go: a terminal or a log, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console

from symbiosis_core.errors import UsageError

__all__ = ["check_writable", "wide_console"]

_LOG_WIDTH: Final = 120
"""Columns of a table where there is no terminal."""


def wide_console(columns: int = _LOG_WIDTH) -> Console:
    """Returns the terminal, or a log that is so wide."""
    console = Console()
    return console if console.is_terminal else Console(width=columns)


def check_writable(file: Path | None) -> None:
    """Empties the file, if any: minutes are not spent on figures that then cannot be written.

    Raises:
        UsageError: it cannot be written.
    """
    if file is None:
        return
    try:
        file.write_text("")  # the figures of an earlier run shall not pass for those of one that failed
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}; choose another path") from error
