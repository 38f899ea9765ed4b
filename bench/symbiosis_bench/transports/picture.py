"""The report as a picture. matplotlib is asked for when somebody wants one, and is no dependency otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from symbiosis_bench.plotting import save
from symbiosis_bench.transports.report import Report
from symbiosis_bench.transports.rows import Row
from symbiosis_bench.transports.yardsticks import WAKE_FLOORS

__all__ = ["draw"]

_WIDTH_INCHES: Final = 12.0
_HEIGHT_INCHES: Final = 4.5


def draw(report: Report, file: Path) -> None:
    """Writes the picture; the file's ending says in which format."""
    from matplotlib.figure import Figure

    settings, usual = report.settings, report.settings.spins[-1]
    bare = [row for row in report.rows if row.compute == settings.computes[0] and row.spin == usual]
    bare = [row for row in bare if row.placement in (settings.placements[-1], WAKE_FLOORS.get(row.transport))]
    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    left, right = figure.subplots(1, 2)
    alone = [row for row in bare if row.clients == settings.clients[0]]
    _panel(left, alone, lambda row: row.size_bytes, "bytes", "one client")
    small = [row for row in bare if row.size_bytes == settings.sizes[0]]
    _panel(right, small, lambda row: row.clients, "clients", f"{settings.sizes[0]} bytes")
    left.legend(fontsize="small")
    figure.suptitle(f"round trip, median; {report.machine.cpu}, {report.machine.cores} cores", fontsize="medium")
    save(figure, file)


def _panel(axes: Any, rows: Sequence[Row], across: Callable[[Row], int], label: str, title: str) -> None:
    for name in dict.fromkeys(row.transport for row in rows):
        points = sorted((across(row), row.p50_us, row.p99_us) for row in rows if row.transport == name)
        (line,) = axes.plot([x for x, _, _ in points], [p50 for _, p50, _ in points], marker="o", label=name)
        tops = [p99 for _, _, p99 in points]
        axes.plot([x for x, _, _ in points], tops, linestyle=":", color=line.get_color(), linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="us (dotted: p99)", title=title)
    axes.grid(visible=True, which="major", alpha=0.3)
