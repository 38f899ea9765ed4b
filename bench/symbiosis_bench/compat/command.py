"""`symbiosis bench compat`: which families and methods a shared base serves."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console

from symbiosis_bench.compat.cell import Cell
from symbiosis_bench.compat.families import FAMILIES, QUICK_FAMILIES
from symbiosis_bench.compat.methods import METHODS, QUICK_METHODS
from symbiosis_bench.compat.page import by_hand
from symbiosis_bench.compat.page import page as page_of
from symbiosis_bench.compat.report import Key, Report, cells_in, score, to_json
from symbiosis_bench.interruption import leave_in_order
from symbiosis_bench.machine import this_machine
from symbiosis_bench.output import check_writable
from symbiosis_core.errors import UsageError

__all__ = ["compat"]

_CUTS: Final = ("graph", "siblings")
_ENVIRONMENT: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
"""Cells are tiny: one thread computes them fastest, and a process without threads may fork."""


def compat(
    json: Annotated[Path | None, typer.Option(help="Write every cell into this file.", show_default=False)] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the table into this Markdown file.", show_default=False)
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="Take over the cells of this file, which --json wrote. May be said often.",
            show_default=False,
        ),
    ] = None,
    families: Annotated[
        str,
        typer.Option(
            help="With commas between; also model types that are not in the table. [default: its own]",
            show_default=False,
        ),
    ] = "",
    methods: Annotated[str, typer.Option(help="With commas between. [default: all]", show_default=False)] = "",
    cuts: Annotated[str, typer.Option(help="Of graph, siblings, linear; with commas between.")] = ",".join(_CUTS),
    quick: Annotated[bool, typer.Option("--quick", help="A few families and methods only.")] = False,
) -> None:
    """Try every method of PEFT on every family of decoders, and compare with plain PEFT.

    What --from has is not tried again, so a run that was stopped goes on with --from and --json of one name.
    """
    os.environ.update(_ENVIRONMENT)
    report = Report(
        machine=this_machine(),
        families=_chosen("families", families, _known_families(families), QUICK_FAMILIES if quick else FAMILIES),
        methods=_chosen("methods", methods, METHODS, QUICK_METHODS if quick else METHODS),
        cuts=_chosen("cuts", cuts, (*_CUTS, "linear"), _CUTS),
        cells=(),
    )
    if page is not None and page.exists() and not _whole(report):
        raise UsageError(
            f"--page {page} is there, and would be overwritten by a part of the table; choose another path, or "
            "leave out --quick, --families, --methods and --cuts"
        )
    cells = dict(cells_in(known or (), report.machine))  # before the file is emptied that may be one of them
    kept = by_hand(page)
    for path in (json, page):
        check_writable(path)
    leave_in_order()
    console = Console(soft_wrap=True)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    _keep(_tried(report, cells, tell), cells, report, json)
    report = _with(report, cells)
    if page is not None:
        page.write_text(page_of(report) + kept)
    for cut in report.cuts:
        tell(_line(cut, report.cells))


def _keep(tried: Iterable[Cell], cells: dict[Key, Cell], report: Report, json: Path | None) -> None:
    """Adds what is tried to `cells`, and writes them after every family and however it ends."""
    family = ""
    try:
        for cell in tried:
            if cell.family != family:
                _write(json, _with(report, cells))
                family = cell.family
            cells[cell.family, cell.method, cell.cut] = cell
    finally:
        _write(json, _with(report, cells))


def _tried(report: Report, known: Mapping[Key, Cell], tell: Callable[[str], None]) -> Iterator[Cell]:
    """Yields the cells that are not known, and tries them as they are asked for."""
    wanted = {
        family: [
            (method, cut) for method in report.methods for cut in report.cuts if (family, method, cut) not in known
        ]
        for family in report.families
    }
    wanted = {family: each for family, each in wanted.items() if each}
    if not wanted:
        return
    from symbiosis_bench.compat.run import run  # imports torch, which reads the environment

    with tempfile.TemporaryDirectory(prefix="sy-compat-", ignore_cleanup_errors=True) as folder:
        yield from run(wanted, Path(folder), tell)


def _with(report: Report, cells: Mapping[Key, Cell]) -> Report:
    """Returns the report with those of the cells that it speaks of."""
    keys = itertools.product(report.families, report.methods, report.cuts)
    return msgspec.structs.replace(report, cells=tuple([cells[key] for key in keys if key in cells]))


def _write(json: Path | None, report: Report) -> None:
    if json is not None:
        json.write_bytes(to_json(report))


def _line(cut: str, cells: Iterable[Cell]) -> str:
    counts = score(cell for cell in cells if cell.cut == cut)
    return (
        f"cut {cut}: of {counts.counted} cells that plain PEFT passes {counts.passed} pass, {counts.but_merge} "
        f"pass all but the merge, {counts.lent} need real weights for something, {counts.failed} fail"
    )


def _chosen(what: str, given: str, known: Iterable[str], default: Iterable[str]) -> tuple[str, ...]:
    names = _named(given)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--{what} {', '.join(unknown)}: there are {', '.join(known)}")
    return names or tuple(default)


def _known_families(given: str) -> tuple[str, ...]:
    """Returns the table's families, and where others are asked for also what else transformers has."""
    if all(name in FAMILIES for name in _named(given)):
        return tuple(FAMILIES)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # slow, and seldom needed

    return tuple(dict.fromkeys((*FAMILIES, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))


def _whole(report: Report) -> bool:
    """Says whether the report is to have all that the table has; it may have more."""
    families, methods, cuts = set(FAMILIES), set(METHODS), set(_CUTS)
    return families <= set(report.families) and methods <= set(report.methods) and cuts <= set(report.cuts)


def _named(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())
