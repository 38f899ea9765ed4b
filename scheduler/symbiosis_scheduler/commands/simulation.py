"""What `symbiosis policy simulate` does: runs, the tables, the files."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import UsageError
from symbiosis_scheduler.commands.console import verbatim, wide_console
from symbiosis_scheduler.simulation.picture import draw
from symbiosis_scheduler.simulation.recorded import Recorded
from symbiosis_scheduler.simulation.report import RunFigures, figures
from symbiosis_scheduler.simulation.script import read_load
from symbiosis_scheduler.simulation.trace_file import read_trace
from symbiosis_scheduler.simulation.world import World

__all__ = ["Run", "run", "show", "write"]


class Run:
    """One configuration's run; or what the daemon did while it was recorded, which took nothing here."""

    def __init__(self, found: RunFigures, latencies_us: Callable[[str], list[float]], took_s: float = 0.0) -> None:
        self.found = found
        self.latencies_us = latencies_us
        """Of a lane's requests, in order of size."""
        self.took_s = took_s
        """Of real time."""


def run(
    trace: Path,
    settings: Mapping[str, DaemonConfig],
    *,
    clients: int = 0,
    devices: int = 1,
    requests: int = 0,
    seed: int = 0,
    arrivals: float = 0.0,
    torn: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> list[Run]:
    """Plays the trace under every configuration, from the same seed. What was recorded comes first.

    `torn`: of a trace that is not whole, what is. `ready` is called when all that can be wrong with trace and
    configurations was looked for.
    """
    records = read_trace(trace, torn=torn)
    load, recorded = read_load(records), Recorded(records)
    runs = [Run(recorded.figures(), recorded.latencies_us)]
    how = {"clients": clients, "devices": devices, "seed": seed}
    worlds = {name: World(load, config, **how, arrivals=arrivals) for name, config in settings.items()}
    ready()
    for name, world in worlds.items():
        began = time.perf_counter()
        with _without_collecting():
            world.run(requests)
        took_s = time.perf_counter() - began
        policy = settings[name].policy.name
        runs.append(Run(figures(world, name, policy), partial(_latencies_us, world), took_s))
    return runs


def show(runs: list[Run]) -> None:
    """Prints a table over all, and one per lane."""
    console = wide_console()
    console.print(_overall(runs))
    for lane in sorted({lane.lane for each in runs for lane in each.found.lanes}):
        console.print(_of_lane(lane, runs))


def write(runs: list[Run], json: Path | None, plot: Path | None) -> None:
    """Writes the figures and the picture, where they are wanted."""
    short = _short([each.found.name for each in runs])
    lines = [
        (f"{short[each.found.name]} {lane.lane}", each.latencies_us(lane.lane))
        for each in runs
        for lane in each.found.lanes
    ]
    try:
        if json is not None:
            json.write_bytes(msgspec.json.format(msgspec.json.encode([each.found for each in runs])) + b"\n")
        if plot is not None:
            plot.write_text(draw("share of requests answered within", lines))
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}; choose another path") from error


def _short(names: Sequence[str]) -> dict[str, str]:
    """Returns what a picture has room for: of each path as much, from its end, as no other has."""
    paths = {name: Path(name).with_suffix("").parts for name in names}
    short = dict.fromkeys(names, "")
    for length in range(1, 1 + max(map(len, paths.values()), default=0)):
        ends = {name: "/".join(parts[-length:]) for name, parts in paths.items()}
        often = Counter(ends.values())
        short = {name: short[name] or (end if often[end] == 1 else "") for name, end in ends.items()}
    return {name: end or name for name, end in short.items()}


def _latencies_us(world: World, lane: str) -> list[float]:
    return sorted(us for player in world.players if player.lane == lane for us in player.latencies_us)


def _overall(runs: list[Run]) -> Table:
    headings = ("requests", "seconds", "clients a batch", "busy", "guessed", "holds", "saved so", "simulated in")
    table = _table("in virtual time", *headings)
    for each in runs:
        found = each.found
        table.add_row(
            *(found.name, found.policy, f"{found.requests:,}", f"{found.seconds:,.1f}", f"{found.occupancy:.2f}"),
            *(f"{found.busy:.0%}", "" if found.guessed is None else f"{found.guessed:.0%}"),
            "" if found.holds is None else f"{found.holds:,}",
            "" if found.held_saved_s is None else f"{found.held_saved_s:,.2f} s",
            f"{each.took_s:.1f} s" if each.took_s else "",
        )
    return table


def _of_lane(lane: str, runs: list[Run]) -> Table:
    headings = ("p50", "p99", "forward p50", "forward p99", "rows/s", "fairness", "refused")
    table = _table(verbatim(f"lane {lane}"), *headings)
    for each in runs:
        for found in each.found.lanes:
            if found.lane == lane:
                times = (found.p50_us, found.p99_us, found.forward_p50_us, found.forward_p99_us)
                table.add_row(
                    *(each.found.name, each.found.policy, *(f"{us / 1e3:,.2f} ms" for us in times)),
                    *(f"{found.rows_per_s:,.0f}", f"{found.fairness:.2f}", str(found.refused)),
                )
    return table


def _table(title: Text | str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("configuration", "policy"):
        table.add_column(heading)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Nothing in a world is a cycle that has to go before the world does."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
