"""The report: what is written as JSON, and the table for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from symbiosis_bench.machine import Machine
from symbiosis_bench.spread import Spread, ratios, spread
from symbiosis_bench.targets import Target
from symbiosis_bench.transports.rows import Row
from symbiosis_bench.transports.settings import Settings
from symbiosis_bench.transports.surroundings import Surroundings
from symbiosis_bench.transports.yardsticks import MEMORY_FLOOR, RAW_ZMQ_SHM, SAME_CORE

__all__ = ["Ratio", "Report", "mismatches", "ratios_of", "show", "to_json"]

_SHM: Final = "posix_shm"
_SMALL_BYTES: Final = 4096
_LARGE_BYTES: Final = 1 << 20
_LEFT: Final = ("transport", "compute", "spin", "placement", "shared", "verified")


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with a target, from series of one run."""

    spread: Spread
    target: Target
    met: bool | None
    """Of the median; None in a quick run, whose figures mean nothing."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: Machine
    surroundings: Surroundings
    settings: Settings
    not_measured: dict[str, str]
    """Each installed transport that has no rows here, each placement that is not possible, and why."""
    ratios: dict[str, dict[str, Ratio]]
    """By placement, then by name."""
    rows: list[Row]


def to_json(report: Report) -> bytes:
    """Returns the report as it is written."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"


def mismatches(rows: Iterable[Row]) -> list[str]:
    """Returns a line for every series whose answers were not what they should be."""
    return [
        f"{one.transport} answered wrongly: {one.size_bytes} bytes, {one.clients} clients, compute {one.compute}"
        for one in rows
        if not one.verified
    ]


def ratios_of(rows: Sequence[Row], settings: Settings) -> dict[str, dict[str, Ratio]]:
    """Returns the figures that have targets, as far as their series were measured: one client, no work."""
    plain = [row for row in rows if (row.clients, row.compute, row.spin) == (1, "0", settings.spins[-1])]
    found = {placement: _placed(plain, placement, settings) for placement in settings.placements}
    return {placement: figures for placement, figures in found.items() if figures}


def _placed(plain: Sequence[Row], placement: str, settings: Settings) -> dict[str, Ratio]:
    """Returns those of one placement. The wake floor is that on one core for all of them."""
    small, large = settings.sizes[0], max(settings.sizes)
    here = [row for row in plain if row.placement == placement or row.transport == SAME_CORE]
    p50 = {(row.transport, row.size_bytes): row.rounds_p50_us for row in here}
    copied = [_copies(row) for row in here if row.transport == _SHM]
    found: dict[str, Ratio] = {}

    def add(key: str, above: tuple[str, int], below: tuple[str, int], most: float) -> None:
        if above in p50 and below in p50:
            found[key] = _ratio(ratios(p50[above], p50[below]), most, quick=settings.quick)

    if small <= _SMALL_BYTES:
        add("shm_over_raw_zmq_shm", (_SHM, small), (RAW_ZMQ_SHM, small), 0.25)
        add("shm_over_wake_floor_same_core", (_SHM, small), (SAME_CORE, small), 1.5)
    if large >= _LARGE_BYTES:
        add("shm_over_memory_floor", (_SHM, large), (MEMORY_FLOOR, large), 1.25)
    if copied:
        found["shm_copies"] = _ratio(spread(copied), 0.0, quick=False)
    return found


def _copies(row: Row) -> float:
    """Returns the copies of a row: as counted, and at least one where the two ends do not have the same pages.

    The count is a transport's own word; that no copy is missing in it, the kernel's map of the pages shows.
    """
    return max(row.copies or 0.0, 0.0 if row.same_memory else 1.0)


def _ratio(spread: Spread, most: float, *, quick: bool) -> Ratio:
    target = Target("<=", most)
    return Ratio(spread=spread, target=target, met=None if quick else target.met(spread.median))


_COLUMNS: Final[dict[str, Callable[[Row], object]]] = {
    "transport": lambda row: row.transport,
    "bytes": lambda row: f"{row.size_bytes:,}",
    "clients": lambda row: row.clients,
    "compute": lambda row: row.compute,
    "spin": lambda row: row.spin,
    "placement": lambda row: row.placement,
    "p50 us": lambda row: _number(row.p50_us),
    "p90": lambda row: _number(row.p90_us),
    "p99": lambda row: _number(row.p99_us),
    "overhead": lambda row: _number(row.overhead_us),
    "GB/s": lambda row: _number(row.gb_per_s),
    "cpu us": lambda row: _number(row.server_cpu_us),
    "batch": lambda row: _number(row.mean_batch),
    "bells": lambda row: _number(row.doorbells),
    "spins": lambda row: _number(row.spin_hits),
    "copies": lambda row: _number(row.copies),
    "shared": lambda row: _yes(row.same_memory),
    "verified": lambda row: _yes(row.verified),
}


def show(console: Console, report: Report) -> None:
    """Prints the table and the figures with targets."""
    table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in _COLUMNS:
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    for row in report.rows:
        table.add_row(*(str(cell(row)) for cell in _COLUMNS.values()))
    console.print(table)
    for name, why in report.not_measured.items():
        console.print(f"{name} was not measured: {why}", markup=False, highlight=False, soft_wrap=True)
    for placement, found in report.ratios.items():
        for key, ratio in found.items():
            line = f"{placement}: {key} {_reached(ratio)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.settings.quick:
        console.print("quick: everything was run, and no figure means anything", markup=False)


def _reached(ratio: Ratio) -> str:
    met = "" if ratio.met is None else (": met" if ratio.met else ": missed")
    span = f"{_number(ratio.spread.min)}..{_number(ratio.spread.max)}"
    return f"{_number(ratio.spread.median)} ({span}), target {ratio.target}{met}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _yes(said: bool | None) -> str:
    return "" if said is None else ("yes" if said else "NO")
