"""How near the simulator comes to a load that was measured: the daemon is recorded meanwhile, and played again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from symbiosis_bench.failure import BenchFailedError
from symbiosis_core.config import DaemonConfig
from symbiosis_scheduler.simulation.fetching import fetch_trace
from symbiosis_scheduler.simulation.recorded import Recorded
from symbiosis_scheduler.simulation.report import LaneFigures, figures
from symbiosis_scheduler.simulation.script import read_load
from symbiosis_scheduler.simulation.trace_file import read_trace
from symbiosis_scheduler.simulation.world import World

__all__ = ["COMPARED", "Foretold", "foretell", "recording"]

COMPARED: Final = ("p50_us", "p99_us", "mean_us", "forward_p50_us", "forward_p99_us", "rows_per_s")
_SEEDS: Final = 5


class Foretold(msgspec.Struct, frozen=True, kw_only=True):
    """One lane: what it got, what it got in virtual time (the median of some seeds), and how far off that is."""

    lane: str
    recorded: LaneFigures
    simulated: dict[str, float]
    off: dict[str, float]
    """Shares of what was recorded: 0.1 is ten percent too much."""


@contextmanager
def recording(address: str, out: Path) -> Iterator[None]:
    """Writes a trace of the daemon as long as it lasts.

    Raises:
        BenchFailedError: some records were lost, and what is played again would not be what was measured.
    """
    from symbiosis_transports.zmq_link import ControlClient  # heavy: not for a command line that is only looked at

    enough = threading.Event()
    failures: list[Exception] = []

    def record() -> None:
        try:
            with ControlClient(address) as link, out.open("wb") as file:
                lost = fetch_trace(link, file.write, enough.wait)
            if lost:
                failures.append(BenchFailedError(f"{out} lacks {lost} records; the machine may be too busy"))
        except Exception as error:  # noqa: BLE001  # raised below, in the thread that waits for this one
            failures.append(error)

    thread = threading.Thread(target=record, name="recording")
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if failures:
        raise failures[0]


def foretell(
    trace: Path, config: DaemonConfig, *, real: Path | None = None, arrivals: float = 0.0
) -> tuple[Foretold, ...]:
    """Plays a trace again, under the configuration under which it was recorded.

    `real`: another trace, which is foretold from this one: of the same clients, whose prompts arrive `arrivals`
    times as often.
    """
    load = read_load(read_trace(trace))
    recorded = Recorded(read_trace(real or trace)).figures()
    runs: list[dict[str, LaneFigures]] = []
    for seed in range(_SEEDS):
        world = World(load, config, seed=seed, arrivals=arrivals)
        world.run()
        runs.append({lane.lane: lane for lane in figures(world, "", config.policy.name).lanes})
    return tuple([_foretold(lane, [run[lane.lane] for run in runs]) for lane in recorded.lanes])


def _foretold(recorded: LaneFigures, runs: Sequence[LaneFigures]) -> Foretold:
    simulated = {name: median(getattr(run, name) for run in runs) for name in COMPARED}
    real = {name: getattr(recorded, name) for name in COMPARED}
    off = {name: simulated[name] / real[name] - 1 for name in COMPARED if real[name]}
    return Foretold(lane=recorded.lane, recorded=recorded, simulated=simulated, off=off)
