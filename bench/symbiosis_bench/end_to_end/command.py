"""`symbiosis bench end-to-end`: what sharing a base costs and what it brings."""

from __future__ import annotations

import os
import secrets
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from symbiosis_bench.end_to_end.figures import JOBS, KEYS, Figure
from symbiosis_bench.end_to_end.picture import draw
from symbiosis_bench.end_to_end.report import Report, mismatches, settings_line, show, to_json
from symbiosis_bench.end_to_end.run import run
from symbiosis_bench.end_to_end.settings import FULL, QUICK, Scale, Settings, telling_environment
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.interruption import leave_in_order
from symbiosis_bench.machine import this_machine
from symbiosis_bench.output import check_writable, wide_console
from symbiosis_bench.plotting import check_plotting
from symbiosis_bench.progress import Progress
from symbiosis_core.errors import UsageError

__all__ = ["conclude", "end_to_end"]


_SEEDS: Final = 1000


class Device(StrEnum):
    """Where models are."""

    CPU = "cpu"
    CUDA = "cuda"


def end_to_end(
    model: Annotated[str, typer.Option(help="smollm2 (embedded), or a folder.")] = "smollm2",
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw where a token's time goes; .svg, .png or .pdf.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny random model: everything is run, nothing is meant.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where models are.")] = Device.CPU,
    only: Annotated[str, typer.Option(help="Keys, with commas between. [default: all]", show_default=False)] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of everything. [default: 5 or 3]", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch in a process. [default: all cores]", show_default=False)
    ] = None,
    cut: Annotated[str, typer.Option(help="Of the clients. [default: the library's]", show_default=False)] = "",
    seed: Annotated[
        int | None, typer.Option(help="Of who comes first. [default: another every time]", show_default=False)
    ] = None,
    lent: Annotated[bool, typer.Option(help="Also measure clients with lent weights.")] = True,
    limit_mb: Annotated[
        int | None,
        typer.Option(min=1, help="Of jobs_on_one_gpu: what all may hold. [default: the GPU]", show_default=False),
    ] = None,
    capture: Annotated[bool, typer.Option(help="Capture the decode steps of generating clients.")] = True,
) -> None:
    """Measure clients on a shared base against plain PEFT, in separate processes, and compare their results."""
    settings = Settings(
        model="a tiny random Llama" if quick else model,
        dtype="float32" if quick else "bfloat16",
        device=str(device),
        threads=threads or len(os.sched_getaffinity(0)),
        cut=cut,
        capture=capture,
        quick=quick,
        only=_keys(only),
        scale=_scaled(QUICK if quick else FULL, rounds),
        seed=secrets.randbelow(_SEEDS) if seed is None else seed,
        lent=lent,
        limit_bytes=None if limit_mb is None else limit_mb * 1_000_000,
        environment=telling_environment(),
    )
    if JOBS in settings.only and settings.device == "cpu" and limit_mb is None:
        raise UsageError(f"--only {JOBS}: a CPU has no memory of its own; say with --limit-mb what jobs may hold")
    check_writable(json)
    if plot is not None:
        check_plotting()
    console = wide_console()
    leave_in_order()
    with (
        tempfile.TemporaryDirectory(prefix="symbiosis-bench-", ignore_cleanup_errors=True) as folder,
        Progress(console) as progress,
    ):
        progress.tell(settings_line(settings))
        machine = this_machine()

        def keep(figures: dict[str, Figure]) -> None:
            if json is not None:
                json.write_bytes(to_json(Report(machine=machine, settings=settings, figures=figures)))

        figures = run(settings, progress, Path(folder), keep)
    report = Report(machine=machine, settings=settings, figures=figures)
    if plot is not None:
        draw(report, plot)
    conclude(report, console, json)


def conclude(report: Report, console: Console, json: Path | None) -> None:
    """Shows and writes the report.

    Raises:
        BenchFailedError: contenders did not compute the same.
    """
    show(console, report)
    if json is not None:
        json.write_bytes(to_json(report))
    if found := mismatches(report):
        raise BenchFailedError(*found)


def _scaled(scale: Scale, rounds: int | None) -> Scale:
    return scale if rounds is None else msgspec.structs.replace(scale, rounds=rounds, crowd_rounds=rounds)


def _keys(only: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in only.split(",") if key.strip())
    if unknown := [key for key in keys if key not in KEYS]:
        raise UsageError(f"--only {', '.join(unknown)}: the keys are {', '.join(KEYS)}")
    return keys
