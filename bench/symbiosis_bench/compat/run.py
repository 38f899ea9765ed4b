"""Runs the table: for each family a daemon and a process that tries its cells, both forked from this one.

A cell that kills its process, or that takes too long, is told as failed, and the next process goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from symbiosis_bench.compat.base import READY, lend
from symbiosis_bench.compat.cell import Cell, Outcome
from symbiosis_bench.compat.families import FAMILIES
from symbiosis_bench.compat.forks import Fork
from symbiosis_bench.compat.trial import Wanted, cell_of, try_cells

__all__ = ["run"]

_START_S: Final = 120.0
_CELL_S: Final = 60.0
"""For the plain and the remote half of a cell together; they take less than one."""

Tell = Callable[[str], None]


def run(
    families: Sequence[str], methods: Sequence[str], cuts: Sequence[str], folder: Path, tell: Tell
) -> list[Cell]:
    """Returns every cell, in the order of the arguments. `folder` has a short path: a socket is in it."""
    cells: list[Cell] = []
    wanted = [(method, cut) for method in methods for cut in cuts]
    for number, family in enumerate(families):
        found = _family(family, wanted, folder / str(number))
        cells.extend(found)
        tell(_line(family, found))
    return cells


def _family(family: str, wanted: Sequence[Wanted], folder: Path) -> list[Cell]:
    folder.mkdir()
    base, address, log = folder / "base", f"ipc://{folder}/s", folder / "log"
    with Fork(partial(lend, family, FAMILIES[family], base, address), log) as daemon:
        said = daemon.hear(_START_S)
        if said != READY:
            why = (said or daemon.how_it_ended().encode()).decode()
            return [_failed(family, each, f"not served: {why}") for each in wanted]
        return _cells(family, wanted, base, address, log)


def _cells(family: str, wanted: Sequence[Wanted], base: Path, address: str, log: Path) -> list[Cell]:
    cells: list[Cell] = []
    while len(cells) < len(wanted):
        with Fork(partial(try_cells, family, base, address, wanted[len(cells) :]), log) as trial:
            while len(cells) < len(wanted):
                try:
                    said = trial.hear(_CELL_S)
                except TimeoutError:
                    cells.append(_failed(family, wanted[len(cells)], f"hangs: more than {_CELL_S:.0f} s"))
                    break
                if said is None:
                    cells.append(_failed(family, wanted[len(cells)], f"the process {trial.how_it_ended()}"))
                    break
                cells.append(cell_of(said))
    return cells


def _failed(family: str, wanted: Wanted, reason: str) -> Cell:
    method, cut = wanted
    return Cell(family=family, method=method, cut=cut, outcome=Outcome.FAIL, reason=reason)


def _line(family: str, cells: Sequence[Cell]) -> str:
    counts = ", ".join(f"{sum(cell.outcome is outcome for cell in cells)} {outcome}" for outcome in Outcome)
    return f"{family}: {counts}; {sum(cell.seconds for cell in cells):.0f} s"
