"""`symbiosis trace`: write down what clients ask of a daemon, to play it again under other policies."""

from __future__ import annotations

import time
from io import FileIO
from pathlib import Path
from typing import Annotated, Self

import typer

from symbiosis_core.errors import SymbiosisError, UsageError
from symbiosis_scheduler.commands.patience import Patience
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
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="For how long, or until Ctrl-C.")] = 30.0,
) -> None:
    """Write down who asked for what and when, for `symbiosis policy simulate`: names and users, and no content."""
    from symbiosis_scheduler.simulation.fetching import fetch_trace
    from symbiosis_transports.zmq_link import ControlClient

    began, patience = time.monotonic(), Patience(seconds)
    with ControlClient(address or default_address()) as link, _Out(out) as file:
        try:
            with patience.heeding_signals():
                dropped = fetch_trace(link, file.write, patience.wait)
        except (SymbiosisError, KeyboardInterrupt):
            if file.begun:
                typer.echo(f"{out} has what was recorded until then: `symbiosis policy simulate --torn`", err=True)
            raise
    size, took_s = out.stat().st_size, time.monotonic() - began
    typer.echo(f"{out}: {size / 1e3:.1f} kB in {took_s:.3g} s" + (f", {dropped} records lost" if dropped else ""))


class _Out:
    """A file that is begun with the first that is written to it: until then the one before is still there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was to be written."""
        return self._file is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        """Writes it through.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            if self._file is None:
                self._file = self._path.open("wb", buffering=0)
            left = memoryview(data)
            while left:  # a disk that is nearly full takes a part, and refuses the next
                left = left[self._file.write(left) :]
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}; choose another path") from error
