"""`symbiosis demo`: the main job of Symbiosis, live, in about a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from symbiosis_bench.demo.course import Course, DemoFailedError
from symbiosis_bench.demo.progress import decode
from symbiosis_bench.demo.screen import open_screen
from symbiosis_bench.demo.summary import complaints, show, summarize
from symbiosis_bench.interruption import leave_in_order
from symbiosis_bench.machine import this_machine
from symbiosis_bench.processes import Children
from symbiosis_core.errors import UsageError

__all__ = ["demo"]

_LOG_WIDTH: Final = 120
"""Columns where there is no terminal."""


def demo(
    seconds: Annotated[float, typer.Option(min=1, help="Length of the measured phase, all being ready.")] = 60,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the adapters are saved.")] = Path("demo-out"),
    address: Annotated[
        str,
        typer.Option(help="Use the daemon there. [default: one of its own]", show_default=False),
    ] = "",
) -> None:
    """Watch three tenants fine-tune and one chat, all on one base model."""
    out = out.absolute()
    _check_writable(out, json)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    leave_in_order()
    with tempfile.TemporaryDirectory(prefix="symbiosis-demo-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        with open_screen(console) as screen, Children(folder, decode) as children:
            outcome = Course(children, screen, folder, out, seconds).run(address)
    summary = summarize(outcome, this_machine())
    show(console, outcome, summary)
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    if reasons := complaints(summary):
        raise DemoFailedError(tuple(reasons))


def _check_writable(out: Path, json: Path | None) -> None:
    """A minute is not spent on figures and adapters that then cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if json is not None:
            json.write_text("")  # the figures of an earlier run shall not pass for those of one that failed
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}; choose another path") from error
