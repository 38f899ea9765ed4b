"""One run: place by place over the grid, round by round, and in every round the contenders one after the other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from symbiosis_bench.processes import Children
from symbiosis_bench.progress import Progress
from symbiosis_bench.transports.messages import Message, read_message
from symbiosis_bench.transports.placement import TWO_CORES, not_possible
from symbiosis_bench.transports.rows import Round, Row, row, with_overheads
from symbiosis_bench.transports.settings import Cell, Settings, cells
from symbiosis_bench.transports.site import Site
from symbiosis_bench.transports.yardsticks import INPROC, MEMORY_FLOOR, RAW_ZMQ, RAW_ZMQ_SHM, WAKE_FLOORS

__all__ = ["contenders", "run", "series"]

_YARDSTICKS: Final = (RAW_ZMQ_SHM, RAW_ZMQ)


def run(settings: Settings, progress: Progress, folder: Path) -> list[Row]:
    """Measures, and ends all it has started."""
    impossible = not_possible(os.sched_getaffinity(0))
    floors = {name: where for name, where in WAKE_FLOORS.items() if where not in impossible}
    everybody = (*floors, MEMORY_FLOOR, *_YARDSTICKS, *settings.transports)
    found: list[Row] = []
    children: Children[Message]
    with Children(folder, read_message) as children:
        site = Site(settings, children, folder)
        progress.say("starting servers and clients")
        site.open(everybody)
        grid = cells(settings)
        for number, cell in enumerate(grid, 1):
            place = f"{cell.size_bytes} bytes, {cell.clients} clients, compute {cell.compute}, spin {cell.spin}"
            progress.say(f"{number} of {len(grid)}: {place}, {cell.placement}")
            if pairs := series(settings, cell, floors):
                found += _measured(site, settings, pairs)
    return with_overheads(found)


def series(settings: Settings, cell: Cell, floors: Mapping[str, str]) -> list[tuple[str, Cell]]:
    """Returns who takes turns at a place, and where: as it says; wake floors in their own, once a run."""
    found = [(name, cell) for name in contenders(settings, cell)]
    first = settings.sizes[0], settings.computes[0], settings.placements[0]
    if _alone(settings, cell) and (cell.size_bytes, cell.compute, cell.placement) == first:
        own = [(name, msgspec.structs.replace(cell, placement=where)) for name, where in floors.items()]
        return own + found
    return found


def contenders(settings: Settings, cell: Cell) -> list[str]:
    """Returns who is measured there. What does not depend on something is not measured for all of its values."""
    return [
        *([MEMORY_FLOOR] if _alone(settings, cell) else ()),
        *(_YARDSTICKS if cell.spin == settings.spins[-1] else ()),
        *(name for name in settings.transports if name != INPROC or _inside(settings, cell)),
    ]


def _alone(settings: Settings, cell: Cell) -> bool:
    return cell.spin == settings.spins[-1] and cell.clients == settings.clients[0]


def _inside(settings: Settings, cell: Cell) -> bool:
    """Whether both ends can be in one process."""
    return cell.spin == settings.spins[-1] and cell.clients == 1 and cell.placement != TWO_CORES


def _measured(site: Site, settings: Settings, pairs: Sequence[tuple[str, Cell]]) -> list[Row]:
    """Has all of them measured in turns. Nobody always comes first."""
    rounds: dict[tuple[str, Cell], list[Round]] = {pair: [] for pair in pairs}
    for number in range(settings.scale.rounds):
        first = number % len(pairs)
        for name, cell in (*pairs[first:], *pairs[:first]):
            rounds[name, cell].append(site.round(name, cell))
    return [
        row(name, cell, rounds[name, cell], counts=name in settings.transports and name != INPROC)
        for name, cell in pairs
    ]
