"""The page that a person reads: a summary, families down and methods across, and every reason below.

It is made of the JSON alone, and the same report gives the same page.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.compat.methods import METHODS, Group
from symbiosis_bench.compat.prose import AMOUNTS, HEAD, LEGEND
from symbiosis_bench.compat.reasons import by_reason, general, left_out, listed, named, numbered, weights
from symbiosis_bench.compat.report import Report, merges_later, score

__all__ = ["by_hand", "page"]

_BY_HAND: Final = "\n## PEFT's own tests\n"
_PLAINEST: Final = "lora"
"""The method whose trips stand in the summary: LoRA on what attention begins with."""
_LETTERS: Final = {Step.TOKENS: "-g", Step.RELOAD: "-r", Step.MERGE: "-m"}


def page(report: Report) -> str:
    """Returns the page as Markdown."""
    failed = numbered(by_reason(report.cells, Outcome.FAIL))
    parts = [
        HEAD,
        _versions(report),
        "## Score\n",
        _score(report),
        _thoroughness(report),
        _by_family(report),
        "## The cells\n" + LEGEND,
    ]
    for cut in report.cuts:
        for group in Group:
            methods = [name for name in report.methods if METHODS[name].group is group]
            if methods:
                parts += [f"### {group}, cut {cut}\n", _table(report, cut, methods, failed)]
    parts += ["## Reasons\n", "### What fails\n", AMOUNTS, listed(failed.items(), numbered=True)]
    parts += ["### What was refused because weights were not lent\n", weights(report.cells)]
    parts += ["### Where plain PEFT fails itself\n", listed(by_reason(report.cells, Outcome.NOT_PLAIN).items())]
    parts += ["### Steps that plain PEFT fails itself\n", left_out(report.cells)]
    parts += ["### Where more was named\n", named(report.cells)]
    return "\n".join(parts).rstrip() + "\n"


def by_hand(page: Path | None) -> str:
    """Returns the section of an existing page that no report gives, with the empty line before it."""
    if page is None or not page.exists():
        return ""
    _, heading, section = page.read_text().partition(_BY_HAND)
    return heading + section


def _versions(report: Report) -> str:
    machine = report.machine
    days = sorted({cell.date.partition("T")[0] for cell in report.cells})
    when = f", {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days and days[0] else ""
    commits = _commits(report.cells)
    made = f"; commit {commits}" if commits else ""
    libraries = f"torch {machine.torch}, transformers {machine.transformers}, peft {machine.peft}"
    return f"{libraries}, on the CPU{when}{made}.\n"


def _commits(cells: Iterable[Cell]) -> str:
    return ", ".join(sorted({_short(cell.commit) for cell in cells}))


def _short(commit: str) -> str:
    name, plus, changes = commit.partition("+")
    return name[:12] + plus + changes or "one that was not noted"


def _by_family(report: Report) -> str:
    """Returns what passes of every family, and the trips of its plainest cell."""
    head = (
        "",
        *(f"{cut}: pass" for cut in report.cuts),
        *(f"{cut}: trips with `{_PLAINEST}`" for cut in report.cuts),
        "commit",
    )
    rows = [head]
    for family in report.families:
        own = [[cell for cell in report.cells if (cell.family, cell.cut) == (family, cut)] for cut in report.cuts]
        counts = [score(cells) for cells in own]
        trips = [next((_trips(cell) for cell in cells if cell.method == _PLAINEST), "") for cells in own]
        shares = [f"{count.passed} of {count.counted}" for count in counts]
        rows.append((family, *shares, *trips, _commits(itertools.chain(*own))))
    return _markdown(rows)


def _score(report: Report) -> str:
    rows: list[tuple[str, ...]] = [
        ("cut", "cells that plain PEFT passes", "pass", "pass all but the merge", "refused weights", "fail")
    ]
    for cut in report.cuts:
        counts = score(cell for cell in report.cells if cell.cut == cut)
        shares = (counts.passed, counts.but_merge, counts.lent, counts.failed)
        rows.append((cut, str(counts.counted), *(f"{n} ({_percent(n, counts.counted)})" for n in shares)))
    return _markdown(rows)


def _thoroughness(report: Report) -> str:
    """Returns how much was compared in what passes; where a cell notes no commit, floors were not counted."""
    rows: list[tuple[str, ...]] = [
        ("cut", "pass", "steps compared and equal", "with all seven", "need the floor", "with more named")
    ]
    for cut in report.cuts:
        own = [cell for cell in report.cells if cell.cut == cut]
        counts, noted = score(own), score(cell for cell in own if cell.commit)
        floors = f"{noted.by_floor} of {noted.passed}"
        rows.append((cut, str(counts.passed), str(counts.steps), str(counts.whole), floors, str(counts.exact)))
    return _markdown(rows)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _table(report: Report, cut: str, methods: Sequence[str], failed: dict[str, tuple[int, list[Cell]]]) -> str:
    cells = {(cell.family, cell.method): cell for cell in report.cells if cell.cut == cut}
    rows = [("", *methods)]
    for family in report.families:
        rows.append((family, *(_shown(cells[family, method], failed) for method in methods)))
    return _markdown(rows)


def _shown(cell: Cell, failed: dict[str, tuple[int, list[Cell]]]) -> str:
    if cell.outcome is Outcome.NOT_PLAIN:
        return "-"
    if cell.outcome is Outcome.FAIL:
        number, _ = failed[general(cell.reason)]
        return f"{cell.reason.partition(':')[0]} {number}"
    if cell.outcome is Outcome.LENT and not merges_later(cell):
        return "weights"
    trips = f"({_trips(cell)})" if cell.outcome is Outcome.LENT else _trips(cell)
    return " ".join([trips + "*" * bool(cell.also), *(_LETTERS[step] for step in cell.left_out)])


def _trips(cell: Cell) -> str:
    """Returns the trips per block, and the cut that served where it is another one than was asked for."""
    trips = "?" if cell.trips is None else f"{cell.trips:g}"
    return trips + (f" {cell.served}" if cell.served not in ("", cell.cut) else "")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, body)]
    return "\n".join(lines) + "\n"


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
