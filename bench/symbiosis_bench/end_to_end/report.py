"""The report: what is written as JSON, and the table for a person."""

from __future__ import annotations

from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from symbiosis_bench.end_to_end.figures import JOBS, Figure
from symbiosis_bench.end_to_end.settings import Settings
from symbiosis_bench.machine import Machine
from symbiosis_bench.spread import Spread

__all__ = ["Report", "mismatches", "settings_line", "show", "summary", "to_json"]

_SIGNIFICANT: Final = 3
_SAME: Final = {True: "yes", False: "NO", None: "not compared"}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run. In JSON the figures stand beside `machine` and `settings`, each under its key; the jobs of a
    GPU are null where they were not measured."""

    machine: Machine
    settings: Settings
    figures: dict[str, Figure]


def to_json(report: Report) -> bytes:
    """Returns the report as it is written."""
    told = {
        "machine": report.machine,
        "settings": report.settings,
        **report.figures,
        JOBS: report.figures.get(JOBS),
    }
    return msgspec.json.format(msgspec.json.encode(told)) + b"\n"


def mismatches(report: Report) -> list[str]:
    """Returns a line for every check that did not pass."""
    return [
        f"{key} is not verified: {check.what}: {check.says}"
        for key, figure in report.figures.items()
        for check in figure.checks
        if not check.passed
    ]


def settings_line(settings: Settings) -> str:
    """Returns what all processes have in common."""
    environment = " ".join(f"{name}={value}" for name, value in settings.environment.items())
    return (
        f"{settings.model} in {settings.dtype} on {settings.device}; {settings.threads} threads in every process; "
        f"cut: {settings.cut or 'as the library chooses'}; "
        f"decode steps {'captured' if settings.capture else 'eager'}; seed {settings.seed}; "
        f"environment: {environment or 'no variable of interest'}"
    )


def show(console: Console, report: Report) -> None:
    """Prints the table, and what the contenders said about themselves."""
    table = Table(box=None, header_style="bold underline", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("key", no_wrap=True)
    for heading in ("median", "min..max", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("met", "same results"):
        table.add_column(heading, no_wrap=True)
    for key, figure in report.figures.items():
        table.add_row(
            key,
            _number(figure.median),
            _range(figure),
            "" if figure.target is None else str(figure.target),
            "" if figure.met is None else ("yes" if figure.met else "no"),
            _SAME[figure.verified],
        )
    console.print(table)
    for key, figure in report.figures.items():
        if figure.lent is not None:
            console.print(f"{key} with lent weights: {summary(figure.lent)}", markup=False, highlight=False)
        beside = ", ".join(f"{name} {_number(spread.median)}" for name, spread in figure.beside.items())
        for line in (beside, *(f"{name}: {said}" for name, said in figure.notes.items())):
            if line:
                console.print(f"{key}: {line}", markup=False, highlight=False, soft_wrap=True, style="dim")
    if report.settings.quick:
        console.print("quick: everything was run, and no figure means anything", markup=False)


def _range(figure: Spread) -> str:
    """Returns the least and the greatest; a single round has neither."""
    return f"{_number(figure.min)}..{_number(figure.max)}" if len(figure.rounds) > 1 else "one round"


def summary(figure: Spread) -> str:
    """Returns a median with its range."""
    return f"{_number(figure.median)} ({_range(figure)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10**_SIGNIFICANT else f"{value:.{_SIGNIFICANT}g}"
