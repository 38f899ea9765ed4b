"""Runs the table: for each family a daemon and a process that tries its cells, both forked from this one.

A cell that kills its process, or that takes too long, is told as failed, and the next process goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from symbiosis_bench.compat.base import READY, lend
from symbiosis_bench.compat.cell import Cell, Outcome
from symbiosis_bench.compat.families import shape_of
from symbiosis_bench.compat.forks import Fork
from symbiosis_bench.compat.trial import Wanted, cell_of, try_cells
from symbiosis_bench.machine import commit

__all__ = ["run"]

_START_S: Final = 120.0
_CELL_S: Final = 60.0
"""For the plain and the remote half of a cell together; they take less than one."""

Tell = Callable[[str], None]


def run(wanted: Mapping[str, Sequence[Wanted]], folder: Path, tell: Tell) -> Iterator[Cell]:
    """Yields every cell, one family after the other. `folder` has a short path: a socket is in it."""
    here = commit(Path(__file__))
    for number, (family, each) in enumerate(wanted.items()):
        found: list[Cell] = []
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for cell in _family(family, each, folder / str(number)):
            found.append(msgspec.structs.replace(cell, date=now, commit=here))
            yield found[-1]
        tell(_line(family, found))


def _family(family: str, wanted: Sequence[Wanted], folder: Path) -> Iterator[Cell]:
    folder.mkdir()
    base, address, log = folder / "base", f"ipc://{folder}/s", folder / "log"
    with Fork(partial(lend, family, shape_of(family), base, address), log) as daemon:
        said = daemon.hear(_START_S)
        if said == READY:
            yield from _cells(family, wanted, base, address, log)
        else:
            why = (said or daemon.how_it_ended().encode()).decode()
            yield from (_failed(family, each, f"not served: {why}") for each in wanted)


def _cells(family: str, wanted: Sequence[Wanted], base: Path, address: str, log: Path) -> Iterator[Cell]:
    told = 0
    while told < len(wanted):
        with Fork(partial(try_cells, family, base, address, wanted[told:]), log) as trial:
            alive = True
            while alive and told < len(wanted):
                cell = _heard(trial)
                alive = isinstance(cell, Cell)
                yield cell if isinstance(cell, Cell) else _failed(family, wanted[told], cell)
                told += 1


def _heard(trial: Fork) -> Cell | str:
    """Returns the next cell, or why there will be none."""
    try:
        said = trial.hear(_CELL_S)
    except TimeoutError:
        return f"hangs: more than {_CELL_S:.0f} s"
    return cell_of(said) if said is not None else f"the process {trial.how_it_ended()}"


def _failed(family: str, wanted: Wanted, reason: str) -> Cell:
    method, cut = wanted
    return Cell(family=family, method=method, cut=cut, outcome=Outcome.FAIL, reason=reason)


def _line(family: str, cells: Sequence[Cell]) -> str:
    counts = ", ".join(f"{sum(cell.outcome is outcome for cell in cells)} {outcome}" for outcome in Outcome)
    return f"{family}: {counts}; {sum(cell.seconds for cell in cells):.0f} s"
