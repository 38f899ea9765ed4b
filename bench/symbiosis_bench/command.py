"""`symbiosis bench`: measurements, each a command of its own."""

from __future__ import annotations

import typer

from symbiosis_bench.compat.command import compat
from symbiosis_bench.decisions import decisions
from symbiosis_bench.end_to_end.command import end_to_end
from symbiosis_bench.mixed.command import mixed
from symbiosis_bench.transports.command import transports

__all__ = ["bench"]

bench = typer.Typer(help="Measure.", no_args_is_help=True, rich_markup_mode=None)  # help has brackets


@bench.callback()
def _bench() -> None:
    """Measure."""


bench.command("end-to-end")(end_to_end)
bench.command("compat")(compat)
bench.command("mixed")(mixed)
bench.command("decisions")(decisions)
bench.command("transports")(transports)
