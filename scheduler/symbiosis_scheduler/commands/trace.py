"""`symbiosis trace`: write down what clients ask of a daemon, to play it again under other policies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from symbiosis_core.errors import UsageError
from symbiosis_transports.address import default_address

__all__ = ["trace"]

trace = typer.Typer(help="Record what clients ask of a daemon.", no_args_is_help=True)


@trace.callback()
def _trace() -> None:
    """Record what clients ask of a daemon."""


@trace.command()
def record(
    out: Annotated[Path, typer.Argument(help="Where the trace is written.")],
    address: Annotated[str, typer.Option(help="The daemon's address.", show_default=False)] = "",
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="For how long.")] = 30.0,
) -> None:
    """Write down who asked for what and when, for `symbiosis policy simulate`: names and users, and no content."""
    from symbiosis_scheduler.simulation.fetching import fetch_trace
    from symbiosis_transports.zmq_link import ControlClient

    ends = time.monotonic() + seconds

    def wait(most_s: float) -> bool:
        time.sleep(min(most_s, max(0.0, ends - time.monotonic())))
        return time.monotonic() >= ends

    with ControlClient(address or default_address()) as link, _opened(out) as file:
        dropped = fetch_trace(link, file.write, wait)
    size = out.stat().st_size
    typer.echo(f"{out}: {size / 1e3:.1f} kB in {seconds:g} s" + (f", {dropped} records lost" if dropped else ""))


def _opened(out: Path) -> BinaryIO:
    try:
        return out.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another path") from error
