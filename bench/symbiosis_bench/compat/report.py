"""What a run of the table tells, as JSON, and its score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.machine import Machine

__all__ = ["Report", "Score", "from_json", "score", "to_json"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: Machine
    families: tuple[str, ...]
    methods: tuple[str, ...]
    cuts: tuple[str, ...]
    cells: tuple[Cell, ...]


class Score(NamedTuple):
    """Counts of cells. Those in which plain PEFT fails are in none of them."""

    counted: int
    passed: int
    but_merge: int
    """Those of `passed`, and those in which only the merge needs real weights."""
    lent: int
    """All that need real weights, if for the merge only."""
    failed: int


def score(cells: Iterable[Cell]) -> Score:
    """Returns the counts."""
    counted = [cell for cell in cells if cell.outcome is not Outcome.NOT_PLAIN]
    passed = sum(cell.outcome is Outcome.PASS for cell in counted)
    return Score(
        counted=len(counted),
        passed=passed,
        but_merge=passed + sum(merges_later(cell) for cell in counted),
        lent=sum(cell.outcome is Outcome.LENT for cell in counted),
        failed=sum(cell.outcome is Outcome.FAIL for cell in counted),
    )


def merges_later(cell: Cell) -> bool:
    """Whether everything passes but the merge, which needs real weights."""
    lent = [step for step, outcome in cell.steps.items() if outcome is Outcome.LENT]
    return cell.outcome is Outcome.LENT and lent == [Step.MERGE]


def to_json(report: Report) -> bytes:
    """Returns the report as it is written."""
    return msgspec.json.format(msgspec.json.encode(report)) + b"\n"


def from_json(data: bytes) -> Report:
    """Returns what was written."""
    return msgspec.json.decode(data, type=Report)
