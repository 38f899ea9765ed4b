"""`symbiosis bench mixed`: what clients that train cost those that wait for tokens, and the other way round."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from symbiosis_bench.end_to_end.messages import Shape
from symbiosis_bench.end_to_end.settings import FULL, QUICK, Settings, telling_environment
from symbiosis_bench.interruption import leave_in_order
from symbiosis_bench.mixed.configuration import read_configuration
from symbiosis_bench.mixed.report import show
from symbiosis_bench.mixed.run import Scale, run
from symbiosis_bench.output import check_writable, wide_console
from symbiosis_bench.progress import Progress
from symbiosis_core.errors import UsageError

__all__ = ["mixed"]

_FULL: Final = Scale(loads=(0.25, 0.5, 0.75), prompts=16, tokens=16, shape=Shape(1, 128), alone_s=20.0)
_QUICK: Final = Scale(loads=(0.5,), prompts=4, tokens=6, shape=Shape(1, 16), alone_s=1.0)


def mixed(
    model: Annotated[str, typer.Option(help="smollm2 (embedded), or a folder.")] = "smollm2",
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny random model: everything is run, nothing is meant.")
    ] = False,
    loads: Annotated[
        str, typer.Option(help="Shares of the capacity, with commas between. [default: 0.25,0.5,0.75]")
    ] = "",
    prompts: Annotated[
        int | None, typer.Option(min=2, help="For each load. [default: 16]", show_default=False)
    ] = None,
    serving: Annotated[int, typer.Option(min=1, max=16, help="Clients that share the prompts, in turn.")] = 1,
    capture: Annotated[bool, typer.Option(help="Capture the decode steps of clients that serve.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Start the daemon with this configuration, and count who keeps its targets.", show_default=False
        ),
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Record every load into this folder, and tell how near the simulator comes to it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure inference that arrives by itself beside two clients that train, against each alone."""
    scale = _QUICK if quick else _FULL
    if loads:
        scale = msgspec.structs.replace(scale, loads=_shares(loads))
    if prompts is not None:
        scale = msgspec.structs.replace(scale, prompts=prompts)
    scale = msgspec.structs.replace(scale, serving=serving)
    settings = Settings(
        model="a tiny random Llama" if quick else model,
        dtype="float32" if quick else "bfloat16",
        device="cpu",
        threads=len(os.sched_getaffinity(0)),
        cut="",
        capture=capture,
        quick=quick,
        only=(),
        scale=QUICK if quick else FULL,
        environment=telling_environment(),
    )
    check_writable(json)
    configuration = read_configuration(config, serving)
    if traces is not None:
        traces.mkdir(parents=True, exist_ok=True)
    console = wide_console()
    leave_in_order()
    with (
        tempfile.TemporaryDirectory(prefix="symbiosis-bench-", ignore_cleanup_errors=True) as folder,
        Progress(console) as progress,
    ):
        report = run(settings, scale, progress, Path(folder), configuration, traces)
    show(console, report)
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _shares(loads: str) -> tuple[float, ...]:
    try:
        found = tuple(float(each) for each in loads.split(","))
    except ValueError:
        raise UsageError(f"--loads {loads}: numbers with commas between, such as 0.25,0.5") from None
    if any(not 0 < each <= 2 for each in found):
        raise UsageError(f"--loads {loads}: each is a share of the capacity, above 0 and at most 2")
    return found
