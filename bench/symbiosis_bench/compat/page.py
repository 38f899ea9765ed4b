"""The page that a person reads: a summary, families down and methods across, and every reason below.

It is made of the JSON alone, and the same report gives the same page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from symbiosis_bench.compat.cell import Cell, Outcome
from symbiosis_bench.compat.methods import METHODS, Group
from symbiosis_bench.compat.report import Report, merges_later, score

__all__ = ["by_hand", "page"]

_BY_HAND: Final = "\n## PEFT's own tests\n"
_HEAD = """# Compatibility

Which families of decoders and which methods of PEFT a shared base serves. `make compat` writes this page up to
"PEFT's own tests"; what follows is written by hand. Every cell is a tiny random model of the family, saved,
served by a daemon of its own in float32, and adapted with the method, beside the same with plain PEFT in one
process and from one seed. Compared are: the trained parameters, the loss (1e-5 relative), every gradient and the
logits (1e-4 of the largest entry; with the floor below), tokens generated greedily from a left-padded batch, the
saved adapter loaded in plain PEFT, and the merged model.

What is not shown: speed, other element types, other ways to configure a method, and quality: the models are
random.

Three methods want packages that PEFT does not bring: AdaMSS scikit-learn, CorDA attrs, and LoftQ bitsandbytes and
a GPU. Without them plain PEFT fails, and their cells say so.

The floor. A gradient whose largest entry is smaller than 1e-4 of the method's largest gradient is measured by that
1e-4, so no difference below 1e-8 of the largest gradient counts. Float32 rounds at 6e-8, and a small gradient is
what is left of sums of larger terms: the bias of keys, for one, has none at all, since softmax takes a shift of
all scores away, and what torch gives for it is rounding only. The floor is six times finer than one rounding of
the largest, so it hides no error that is larger than one; without it such gradients would be compared with their
own noise.

Where a number fails, plain PEFT is run six times more, each time with the last bit of every weight changed at
random, and the reason says how far that moves it at most. Such a cell stays one that fails. But where the two are
of one size, the method itself magnifies rounding, and no other order of sums would give equal numbers. Six draws
are a sample: what jumps may jump under the cut and in none of them.
"""
_PLAINEST: Final = "lora"
"""The method whose trips stand in the summary: LoRA on what attention begins with."""
_LEGEND = """
- A number: the cell passes, in so many trips per block and forward; beside it the cut, where another one served it
  than was asked for.
- `0`: no trip in a block. The method takes the weights of every layer that it adapts, here all linears of the
  blocks, or trains their biases, and the client computes those layers itself. A weight that is only read stays the
  daemon's page. One that the method changes or replaces, as PiSSA and OLoRA do with that of each adapted layer, is
  the client's own copy: of those layers there is one for each client. What is not adapted stays remote, such as
  the embedding and the head.
- A number in parentheses: all passes but the merge, which needs the base's real weights.
- `weights`: the method reads or changes the base's real weights, which this daemon does not lend.
- `-`: plain PEFT fails itself; it does not count.
- Anything else: the first step that fails, and under which number its reason stands below.

Trips are those of a forward without a gradient, of a batch of two. In a mixture of experts every expert that is
hit is a trip of its own under the graph cut; under the siblings cut experts are not counted, only layers. Bloom's
activation is an autograd function with a gradient of its own, so the client computes it: one trip more.
"""
_AMOUNTS = """After a family: by how much it is off, and how far the last bit of the weights moves plain PEFT, at
most.
"""


def page(report: Report) -> str:
    """Returns the page as Markdown."""
    failed = _numbered(_reasons(report.cells, Outcome.FAIL))
    parts = [
        _HEAD,
        _versions(report),
        "## Score\n",
        _score(report),
        _by_family(report),
        "## The cells\n" + _LEGEND,
    ]
    for cut in report.cuts:
        for group in Group:
            methods = [name for name in report.methods if METHODS[name].group is group]
            if methods:
                parts += [f"### {group}, cut {cut}\n", _table(report, cut, methods, failed)]
    parts += ["## Reasons\n", "### What fails\n", _AMOUNTS, _list(failed.items(), numbered=True)]
    parts += ["### What was refused because weights were not lent\n", _weights(report.cells)]
    parts += ["### Where plain PEFT fails itself\n", _list(_reasons(report.cells, Outcome.NOT_PLAIN).items())]
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
    commits = sorted({_short(cell.commit) for cell in report.cells})
    made = f"; commit {', '.join(commits)}" if commits else ""
    libraries = f"torch {machine.torch}, transformers {machine.transformers}, peft {machine.peft}"
    return f"{libraries}, on the CPU{when}{made}.\n"


def _short(commit: str) -> str:
    name, plus, changes = commit.partition("+")
    return name[:12] + plus + changes or "one that was not noted"


def _by_family(report: Report) -> str:
    """Returns what passes of every family, and the trips of its plainest cell."""
    head = (
        "",
        *(f"{cut}: pass" for cut in report.cuts),
        *(f"{cut}: trips with `{_PLAINEST}`" for cut in report.cuts),
    )
    rows = [head]
    for family in report.families:
        own = [[cell for cell in report.cells if (cell.family, cell.cut) == (family, cut)] for cut in report.cuts]
        counts = [score(cells) for cells in own]
        trips = [next((_trips(cell) for cell in cells if cell.method == _PLAINEST), "") for cells in own]
        rows.append((family, *(f"{count.passed} of {count.counted}" for count in counts), *trips))
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
        number, _ = failed[_general(cell.reason)]
        return f"{cell.reason.partition(':')[0]} {number}"
    if cell.outcome is Outcome.LENT and not merges_later(cell):
        return "weights"
    return f"({_trips(cell)})" if cell.outcome is Outcome.LENT else _trips(cell)


def _trips(cell: Cell) -> str:
    """Returns the trips per block, and the cut that served where it is another one than was asked for."""
    trips = "?" if cell.trips is None else f"{cell.trips:g}"
    return trips + (f" {cell.served}" if cell.served not in ("", cell.cut) else "")


def _reasons(cells: Iterable[Cell], outcome: Outcome) -> dict[str, list[Cell]]:
    """Returns the cells of an outcome by their reason, the most frequent first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.outcome is outcome:
            found.setdefault(_general(cell.reason), []).append(cell)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _numbered(reasons: dict[str, list[Cell]]) -> dict[str, tuple[int, list[Cell]]]:
    return {reason: (number, cells) for number, (reason, cells) in enumerate(reasons.items(), 1)}


_PATH = re.compile(r"\b\w+(?:\.\w+)*\.\d+\.[\w.]*?(\w+(?:\.(?:weight|bias))?)(?!\.?\w)")
_AMOUNT = re.compile(r"\b\d+e[-+]\d+\b")
_SUCH_AS = re.compile(r"\b\d+ of \d+ (off by [^,]*), such as [^;]*")
_LAYER = re.compile(r"\bRemote(\w+)\(in_features.*?remote=[^)]*\)")


def _general(reason: str) -> str:
    """Returns a reason without what differs from cell to cell: layers, and by how much numbers are off."""
    without_layer = _LAYER.sub(r"Remote\1(...)", _SUCH_AS.sub(r"\1", reason))
    return _AMOUNT.sub("some", _PATH.sub(r"\1", without_layer))


def _list(reasons: Iterable[tuple[str, object]], *, numbered: bool = False) -> str:
    lines = []
    for reason, found in reasons:
        number, cells = found if isinstance(found, tuple) else (0, found)
        assert isinstance(cells, list)  # of cells, as `_reasons` makes it
        lines.append(f"{f'{number}.' if numbered else '-'} {_code(reason)}: {_where(cells)}")
    return "\n".join(lines or ["Nothing."]) + "\n"


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _where(cells: Sequence[Cell]) -> str:
    """Returns the methods of some cells with their families, and by how much those are off."""
    families: dict[str, dict[str, None]] = {}
    for cell in cells:
        amounts = " / ".join(_AMOUNT.findall(cell.reason))
        families.setdefault(cell.method, {})[f"{cell.family} {amounts}".rstrip()] = None
    return "; ".join(f"{method} ({', '.join(found)})" for method, found in families.items()) + "."


def _weights(cells: Sequence[Cell]) -> str:
    found = [cell for cell in cells if cell.outcome is Outcome.LENT]
    first = [cell.method for cell in found if not merges_later(cell)]
    merge = [cell.method for cell in found if merges_later(cell)]
    lines = [
        f"- {what}: {', '.join(_ordered(methods))}."
        for what, methods in (("At once", first), ("For the merge only", merge))
        if methods
    ]
    return "\n".join(lines or ["Nothing."]) + "\n"


def _ordered(methods: Iterable[str]) -> Iterator[str]:
    given = set(methods)
    return (name for name in METHODS if name in given)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, body)]
    return "\n".join(lines) + "\n"


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
