"""Why cells are what they are: what fails, what plain PEFT fails, and what had to be named, each told once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from symbiosis_bench.compat.cell import Cell, Outcome
from symbiosis_bench.compat.methods import METHODS
from symbiosis_bench.compat.prose import NAMED
from symbiosis_bench.compat.report import merges_later

__all__ = ["by_reason", "general", "left_out", "listed", "named", "numbered", "weights"]


def by_reason(cells: Iterable[Cell], outcome: Outcome) -> dict[str, list[Cell]]:
    """Returns the cells of an outcome by their reason, the most frequent first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.outcome is outcome:
            found.setdefault(general(cell.reason), []).append(cell)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def numbered(reasons: dict[str, list[Cell]]) -> dict[str, tuple[int, list[Cell]]]:
    """Returns the reasons with a number each."""
    return {reason: (number, cells) for number, (reason, cells) in enumerate(reasons.items(), 1)}


_PATH = re.compile(r"\b\w+(?:\.\w+)*\.\d+\.[\w.]*?(\w+(?:\.(?:weight|bias))?)(?!\.?\w)")
_AMOUNT = re.compile(r"\b\d+e[-+]\d+\b")
_SUCH_AS = re.compile(r"\b\d+ of \d+ (off by [^,]*), such as [^;]*")
_MODEL = re.compile(r"'\w+(?:ForCausalLM|LMHeadModel)' object")
_LAYER = re.compile(r"\bRemote(\w+)\(in_features.*?remote=[^)]*\)")


def general(reason: str) -> str:
    """Returns a reason without what differs from cell to cell: layers, and by how much numbers are off."""
    without_layer = _LAYER.sub(r"Remote\1(...)", _SUCH_AS.sub(r"\1", reason))
    return _AMOUNT.sub("some", _PATH.sub(r"\1", without_layer))


def listed(reasons: Iterable[tuple[str, object]], *, numbered: bool = False) -> str:
    """Returns a list of reasons, each with its cells."""
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


def left_out(cells: Sequence[Cell]) -> str:
    """Returns the steps with the methods that plain PEFT cannot do them with, and how often."""
    found: dict[str, dict[str, int]] = {}
    for cell in cells:
        for step, why in cell.left_out.items():
            often = found.setdefault(f"{step}: {_MODEL.sub('the model', why)}", {})
            often[cell.method] = often.get(cell.method, 0) + 1
    lines = [
        f"- {_code(why)}: {', '.join(f'{method} ({number})' for method, number in often.items())}."
        for why, often in found.items()
    ]
    return "\n".join(lines or ["Nothing."]) + "\n"


def named(cells: Sequence[Cell]) -> str:
    """Returns what was named, and where."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.also:
            found.setdefault(f"{cell.also}: {NAMED[cell.also]}", []).append(cell)
    return listed(found.items())


def weights(cells: Sequence[Cell]) -> str:
    """Returns the methods that were refused weights."""
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
