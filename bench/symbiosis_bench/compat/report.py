"""What runs of the table tell, as JSON, and its score."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.machine import Machine
from symbiosis_core.errors import UsageError

__all__ = ["Key", "Report", "Score", "cells_in", "from_json", "merges_later", "score", "to_json"]

Key = tuple[str, str, str]
"""Which cell: family, method, cut."""
_VERSIONS: Final = ("torch", "transformers", "peft")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run, with what it has taken over from earlier ones."""

    machine: Machine
    families: tuple[str, ...]
    methods: tuple[str, ...]
    cuts: tuple[str, ...]
    cells: tuple[Cell, ...]


class _Made(msgspec.Struct, frozen=True):
    """Cells of one family that were tried together, without what they have in common."""

    family: str
    date: str
    commit: str
    cells: tuple[Cell, ...]


class _Written(msgspec.Struct, frozen=True):
    """A report as a file has it."""

    machine: Machine
    families: tuple[str, ...]
    methods: tuple[str, ...]
    cuts: tuple[str, ...]
    made: tuple[_Made, ...]


class Score(NamedTuple):
    """Counts of cells. Those in which plain PEFT fails are in none of them."""

    counted: int
    passed: int
    but_merge: int
    """Those of `passed`, and those in which only the merge needs real weights."""
    lent: int
    """All that need real weights, if for the merge only."""
    failed: int
    whole: int
    """Those of `passed` in which every step was compared: plain PEFT fails none."""
    steps: int
    """That were compared and equal in those of `passed`, of seven in each."""
    by_floor: int
    """Those of `passed` in which a gradient needs the floor."""
    exact: int
    """Those of `counted` whose configuration names more, since plain PEFT fails otherwise."""


def score(cells: Iterable[Cell]) -> Score:
    """Returns the counts."""
    counted = [cell for cell in cells if cell.outcome is not Outcome.NOT_PLAIN]
    passed = [cell for cell in counted if cell.outcome is Outcome.PASS]
    return Score(
        counted=len(counted),
        passed=len(passed),
        but_merge=len(passed) + sum(merges_later(cell) for cell in counted),
        lent=sum(cell.outcome is Outcome.LENT for cell in counted),
        failed=sum(cell.outcome is Outcome.FAIL for cell in counted),
        whole=sum(cell.equal == len(Step) for cell in passed),
        steps=sum(cell.equal for cell in passed),
        by_floor=sum(cell.by_floor > 0 for cell in passed),
        exact=sum(bool(cell.also) for cell in counted),
    )


def merges_later(cell: Cell) -> bool:
    """Whether everything passes but the merge, which needs real weights."""
    lent = [step for step, outcome in cell.steps.items() if outcome is Outcome.LENT]
    return cell.outcome is Outcome.LENT and lent == [Step.MERGE]


def to_json(report: Report) -> bytes:
    """Returns the report as it is written: what cells have in common once, and a line for each."""
    head = msgspec.json.encode(_Written(*_fields(report), made=()))
    made = b",\n".join(map(_lines, _made(report.cells)))
    return head.removesuffix(b"[]}") + b"[\n" + made + b"]}\n"


def from_json(data: bytes) -> Report:
    """Returns what was written."""
    written = msgspec.json.decode(data, type=_Written)
    cells = tuple(
        [
            msgspec.structs.replace(cell, family=made.family, date=made.date, commit=made.commit)
            for made in written.made
            for cell in made.cells
        ]
    )
    machine, families, methods, cuts = _fields(written)
    return Report(machine=machine, families=families, methods=methods, cuts=cuts, cells=cells)


def _fields(report: Report | _Written) -> tuple[Machine, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return report.machine, report.families, report.methods, report.cuts


def _made(cells: Iterable[Cell]) -> Iterator[_Made]:
    for (family, date, commit), same in itertools.groupby(
        cells, lambda cell: (cell.family, cell.date, cell.commit)
    ):
        bare = [msgspec.structs.replace(cell, family="", date="", commit="") for cell in same]
        yield _Made(family, date, commit, tuple(bare))


def _lines(made: _Made) -> bytes:
    head = msgspec.json.encode(msgspec.structs.replace(made, cells=()))
    return head.removesuffix(b"[]}") + b"[\n" + b",\n".join(map(msgspec.json.encode, made.cells)) + b"]}"


def cells_in(files: Iterable[Path], machine: Machine) -> Mapping[Key, Cell]:
    """Returns the cells of earlier runs; of equal ones the latest; none that does not say its commit.

    Raises:
        UsageError: a file is no report, or one of other versions than `machine` has.
    """
    found: dict[Key, Cell] = {}
    for file in files:
        report = _read(file)
        other = [name for name in _VERSIONS if getattr(report.machine, name) != getattr(machine, name)]
        if other:
            there, here = (
                ", ".join(f"{name} {getattr(m, name)}" for name in other) for m in (report.machine, machine)
            )
            raise UsageError(f"{file} was made with {there}, and here is {here}; cells of both are no table")
        for cell in report.cells:
            key = (cell.family, cell.method, cell.cut)
            if cell.commit and (key not in found or found[key].date <= cell.date):
                found[key] = cell
    return found


def _read(file: Path) -> Report:
    try:
        return from_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{file} is no report of this benchmark: {error}") from error
