"""What `symbiosis bench mixed` tells."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table

from symbiosis_bench.machine import Machine
from symbiosis_bench.mixed.foretelling import COMPARED, Foretold
from symbiosis_bench.mixed.load import Times
from symbiosis_bench.mixed.targets import TokenTargets
from symbiosis_core.config import DaemonConfig

__all__ = ["HalfLoad", "Loaded", "MixedReport", "show"]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One offered load beside training."""

    arrivals: str
    """`poisson` or `bursts`."""
    offered: float
    """Share of the prompts a second that are served without training."""
    times: Times
    p50_time_per_token_ratio: float
    """To unloaded."""
    p99_time_per_token_ratio: float
    p50_first_token_ratio: float
    p99_first_token_ratio: float
    p99_first_token_waiting_ratio: float
    """What it were if every prompt took as long as unloaded: a client answers its own one after the other."""
    first_tokens_within_target: float
    """Share of prompts whose first token came in time, from when the client began the prompt."""
    tokens_within_target: float
    """Share of later tokens that came in time."""
    training_progress_kept: float
    """Steps a second of both training clients, over those without inference."""
    occupancy: float
    """Clients a batch of the daemon meanwhile."""
    foretold: tuple[Foretold, ...] = ()
    """By lane, where the run was recorded: what the simulator makes of it."""
    foretold_from_first: tuple[Foretold, ...] = ()
    """The same, from the trace of the first load alone: this one it has not seen."""


class HalfLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The key figures, at half of what the machine serves without training."""

    p99_time_per_token_ratio: float
    p50_time_per_token_ratio: float
    training_progress_kept: float


class MixedReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: Machine
    quick: bool
    model: str
    policy: str
    config: str
    """The name of the file that the daemon was started with; empty: none."""
    configuration: DaemonConfig
    """What was read there, or the defaults; without a file `compute.threads` is all cores."""
    targets: TokenTargets
    serving: int
    """Clients that serve, and have the arrivals in turn."""
    captured: bool = False
    """Whether their decode steps are captured."""
    prompts_per_s: float
    """Served without training, by each of them one after the other: the capacity that loads are shares of."""
    prompt_s: float
    """How long one prompt takes, served alone."""
    training_steps_per_s: float
    """Of both training clients without inference."""
    unloaded: Times
    """Of one that serves, alone."""
    loaded: tuple[Loaded, ...]
    half_load: HalfLoad | None
    """None: half load was not among the loads."""


def show(console: Console, report: MixedReport) -> None:
    """Prints the table."""
    table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (
        "arrivals",
        "offered",
        "p50 token",
        "p99 token",
        "p50 first",
        "p99 first",
        "by waiting",
        "in time",
        "first in time",
        "training",
    ):
        table.add_column(heading, justify="left" if heading == "arrivals" else "right")
    unloaded = report.unloaded
    each = (unloaded.p50_token_s, unloaded.p99_token_s, unloaded.p50_first_token_s, unloaded.p99_first_token_s)
    table.add_row("one by one", "alone", *(f"{value * 1e3:.0f} ms" for value in each), *[""] * 4)
    for loaded in report.loaded:
        ratios = (
            *(loaded.p50_time_per_token_ratio, loaded.p99_time_per_token_ratio),
            *(loaded.p50_first_token_ratio, loaded.p99_first_token_ratio, loaded.p99_first_token_waiting_ratio),
        )
        table.add_row(
            *(loaded.arrivals, f"{loaded.offered:.0%}", *(f"{ratio:.2f} x" for ratio in ratios)),
            *(f"{loaded.tokens_within_target:.0%}", f"{loaded.first_tokens_within_target:.0%}"),
            f"{loaded.training_progress_kept:.0%} kept",
        )
    console.print(table)
    if any(loaded.foretold for loaded in report.loaded):
        console.print(_foretold(report))
    console.print(
        f"without training {report.prompts_per_s:.3g} prompts/s are served by {_clients(report)}; without "
        f"inference {report.training_steps_per_s:.3g} steps/s are made. Targets at half load: p50 token at most "
        "1.25 x, p99 at most 1.5 x, training at least 76 % kept",
        soft_wrap=True,
    )
    console.print(_targets(report.targets), soft_wrap=True)
    if report.quick:
        console.print("quick: everything was run, and no figure means anything", markup=False)


def _targets(most: TokenTargets) -> str:
    where = "1.5 times the unloaded p99, since the lane has no targets" if most.derived else "the lane's targets"
    first, later = most.first_token_s * 1e3, most.token_s * 1e3
    return f"in time: {first:.0f} ms from a prompt to its first token, {later:.0f} ms a token ({where})"


def _clients(report: MixedReport) -> str:
    clients = "one client" if report.serving == 1 else f"{report.serving} clients"
    return f"{clients} whose decode steps are captured" if report.captured else clients


def _foretold(report: MixedReport) -> Table:
    table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("simulated, less what was", "offered", "from", "lane", *COMPARED):
        table.add_column(heading, justify="right" if heading in COMPARED else "left")
    for loaded in report.loaded:
        first = f"{report.loaded[0].offered:.0%}"
        for source, foretold in (("itself", loaded.foretold), (first, loaded.foretold_from_first)):
            for each in foretold:
                off = [f"{each.off[name]:+.0%}" if name in each.off else "" for name in COMPARED]
                table.add_row(loaded.arrivals, f"{loaded.offered:.0%}", source, each.lane, *off)
    return table
