"""Where tables are printed, as wide as a terminal or wide enough without one, and what may be put there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from symbiosis_core.errors import UsageError

__all__ = ["check_outputs", "check_writable", "plain_table", "verbatim", "wide_console"]

_LOG_WIDTH: Final = 160
"""Columns where there is no terminal."""
_NAMES: Final = ("client", "name", "user", "model", "transport", "lane")
"""Columns that begin at the left, and are shortened where a terminal is narrow."""


def wide_console() -> Console:
    """Returns the console of standard output. Brackets are shown as they are: names may have some."""
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(width=_LOG_WIDTH, markup=False, emoji=False)


def verbatim(text: str) -> Text:
    """Returns what somebody calls himself, or a lane, to be read and no more: nothing that moves a cursor."""
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text))


def plain_table(*headings: str, title: str | None = None) -> Table:
    """Returns a table that fits into 80 columns: without lines, and only names give way."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        named = heading in _NAMES
        table.add_column(heading, justify="left" if named else "right", no_wrap=not named, overflow="ellipsis")
    return table


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Looks whether one of these files is another of them.

    Raises:
        UsageError: one that is to be written is, by whatever path, one that is read or another that is written.
    """
    for position, file in enumerate(outputs):
        for others, what in ((inputs, "read"), (outputs[:position], "written, too")):
            for other in others:
                if _same(file, other):
                    raise UsageError(f"{file} is {other}, which is {what}; choose another path for the figures")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


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
