"""One run: place by place over the grid, round by round, and in every round the contenders one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from symbiosis_bench.processes import Children
from symbiosis_bench.progress import Progress
from symbiosis_bench.transports.messages import Message, read_message
from symbiosis_bench.transports.rows import Round, Row, row, with_overheads
from symbiosis_bench.transports.settings import Cell, Settings, cells
from symbiosis_bench.transports.site import Site
from symbiosis_bench.transports.yardsticks import INPROC, MEMORY_FLOOR, RAW_ZMQ, RAW_ZMQ_SHM, WAKE_FLOORS

__all__ = ["run"]

_YARDSTICKS: Final = (RAW_ZMQ_SHM, RAW_ZMQ)


def run(settings: Settings, progress: Progress, folder: Path) -> list[Row]:
    """Measures, and ends all it has started."""
    everybody = (*WAKE_FLOORS, MEMORY_FLOOR, *_YARDSTICKS, *settings.transports)
    found: list[Row] = []
    children: Children[Message]
    with Children(folder, read_message) as children:
        site = Site(settings, children, folder)
        progress.say("starting servers and clients")
        site.open(everybody)
        grid = cells(settings)
        for number, cell in enumerate(grid, 1):
            place = f"{cell.size_bytes} bytes, {cell.clients} clients, compute {cell.compute}, spin {cell.spin}"
            progress.say(f"{number} of {len(grid)}: {place}")
            if names := contenders(settings, cell):
                found += _series(site, settings, cell, names)
    return with_overheads(found)


def contenders(settings: Settings, cell: Cell) -> list[str]:
    """Returns who is measured there. What does not depend on something is not measured for all of its values."""
    usual = cell.spin == settings.spins[-1]
    alone = usual and cell.clients == settings.clients[0]
    bare = alone and cell.size_bytes == settings.sizes[0] and cell.compute == settings.computes[0]
    return [
        *(WAKE_FLOORS if bare else ()),
        *([MEMORY_FLOOR] if alone else ()),
        *(_YARDSTICKS if usual else ()),
        *(name for name in settings.transports if name != INPROC or (usual and cell.clients == 1)),
    ]


def _series(site: Site, settings: Settings, cell: Cell, names: list[str]) -> list[Row]:
    rounds: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(settings.scale.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody always comes first
            rounds[name].append(site.round(name, cell))
    return [row(name, cell, rounds[name], counts=name in settings.transports and name != INPROC) for name in names]
