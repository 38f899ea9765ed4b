"""`symbiosis bench transports`: what it costs to carry rows from one process to another and back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.interruption import leave_in_order
from symbiosis_bench.machine import this_machine
from symbiosis_bench.output import check_writable, wide_console
from symbiosis_bench.plotting import check_plotting
from symbiosis_bench.progress import Progress
from symbiosis_bench.transports.picture import draw
from symbiosis_bench.transports.placement import not_possible, placements
from symbiosis_bench.transports.report import Report, mismatches, ratios_of, show, to_json
from symbiosis_bench.transports.settings import FULL, QUICK, Settings, numbers, words
from symbiosis_bench.transports.surroundings import surroundings
from symbiosis_bench.transports.yardsticks import INPROC
from symbiosis_core.errors import UsageError
from symbiosis_transports.ports import Placeable
from symbiosis_transports.registry import names, transport

__all__ = ["transports"]

_COLUMNS: Final = 160
_LEAST_BYTES: Final = 16
_LEAST_LINEAR_BYTES: Final = 2304
_MOST_BYTES: Final = 1 << 28
_MOST_CLIENTS: Final = 64
_MOST_US: Final = 10_000


def transports(
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
    transports: Annotated[
        str,
        typer.Option(
            help="Names, with commas between. [default: all between processes]",
            show_default=False,
        ),
    ] = "",
    sizes: Annotated[str, typer.Option(help="Bytes of the payload, each way.")] = "2304,102400,4194304",
    clients: Annotated[str, typer.Option(help="Client processes at once.")] = "1,2,4,8",
    compute: Annotated[
        str, typer.Option(help="Work per batch: microseconds, or linear (576 by 576).")
    ] = "0,200,linear",
    spin: Annotated[str, typer.Option(help="Waiting awake: off, microseconds, or auto.")] = "off,20,auto",
    placement: Annotated[
        str,
        typer.Option(
            help="Cores of the two sides: one-core, two-cores, free. [default: all that are possible]",
            show_default=False,
        ),
    ] = "",
    plot: Annotated[Path | None, typer.Option(help="Draw into this file.", show_default=False)] = None,
    product: Annotated[bool, typer.Option("--product", help="Every combination; takes long.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Everything is run, nothing is meant.")] = False,
) -> None:
    """Measure round trips through every transport, beside ZeroMQ by itself and the machine's floors."""
    usable = os.sched_getaffinity(0)
    settings = Settings(
        transports=_transports(transports),
        sizes=numbers("--sizes", sizes, _LEAST_BYTES, _MOST_BYTES),
        clients=numbers("--clients", clients, 1, _MOST_CLIENTS),
        computes=words("--compute", compute, ("linear",)),
        spins=words("--spin", spin, ("off", "auto")),
        placements=placements(placement, usable),
        product=product,
        quick=quick,
        scale=QUICK if quick else FULL,
    )
    _check(settings)
    if plot is not None:
        check_plotting()
    for file in (json, plot):
        check_writable(file)
    console = wide_console(_COLUMNS)
    leave_in_order()
    from symbiosis_bench.transports.run import run  # it imports zmq, which help need not

    before = surroundings()  # the load is of others, not of this run
    with (
        tempfile.TemporaryDirectory(prefix="symbiosis-bench-", ignore_cleanup_errors=True) as folder,
        Progress(console) as progress,
    ):
        rows = run(settings, progress, Path(folder))
    report = Report(
        machine=this_machine(),
        surroundings=before,
        settings=settings,
        not_measured={
            **{name: why for name in names() if (why := _left_out(name, settings.transports))},
            **not_possible(usable),
        },
        ratios=ratios_of(rows, settings),
        rows=rows,
    )
    show(console, report)
    if json is not None:
        json.write_bytes(to_json(report))
    if plot is not None:
        draw(report, plot)
    if found := mismatches(rows):
        raise BenchFailedError(*found)


def _transports(text: str) -> tuple[str, ...]:
    usual = tuple(name for name in names() if name != INPROC and not _not_measurable(name))
    chosen = tuple(name.strip() for name in text.split(",") if name.strip()) or usual
    if unknown := [name for name in chosen if name not in names()]:
        raise UsageError(f"--transports {', '.join(unknown)}: there are {', '.join(names())}")
    if reasons := [f"{name} cannot be measured here: {why}" for name in chosen if (why := _not_measurable(name))]:
        raise UsageError(f"--transports: {'; '.join(reasons)}")
    return chosen


def _left_out(name: str, chosen: tuple[str, ...]) -> str:
    """Why there are no rows of it; empty: there are."""
    if name in chosen:
        return ""
    if name == INPROC:
        return _not_measurable(name) or "both of its ends are in one process; --transports inproc measures it"
    return _not_measurable(name) or "it was not asked for"


def _not_measurable(name: str) -> str:
    """Returns why a transport cannot be measured on this machine by this command; empty: it can."""
    carrier = transport(name)
    if carrier.capability().obstacle:
        return carrier.capability().obstacle
    if isinstance(carrier, Placeable):
        return "its rows are on a device, which this command's work is not; bench/gpu_check.sh measures its trips"
    return ""


def _check(settings: Settings) -> None:
    if INPROC in settings.transports and 1 not in settings.clients:
        raise UsageError("--transports inproc: both of its ends are in one process, so --clients must name 1")
    if "linear" in settings.computes and min(settings.sizes) < _LEAST_LINEAR_BYTES:
        raise UsageError(
            f"--sizes {min(settings.sizes)}: a row of --compute linear has {_LEAST_LINEAR_BYTES} bytes"
        )
    for option, texts in (("--compute", settings.computes), ("--spin", settings.spins)):
        if long := [text for text in texts if text.isdecimal() and int(text) > _MOST_US]:
            raise UsageError(f"{option} {', '.join(long)}: at most {_MOST_US} microseconds")
