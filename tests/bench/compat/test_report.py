"""Reports are counted, and taken over where they are of these versions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from symbiosis_bench.compat.cell import Cell, Outcome
from symbiosis_bench.compat.report import cells_in, from_json, score, to_json
from symbiosis_core.errors import UsageError
from tests.bench.compat.cells import CELLS, REPORT, cell


def test_the_score_counts_what_plain_peft_passes() -> None:
    assert score(CELLS) == (5, 1, 2, 2, 2, 0, 6, 1, 1)


def test_a_report_is_read_as_it_was_written() -> None:
    dated = tuple(
        msgspec.structs.replace(each, date=f"2026-11-2{number % 2}", commit="abc")
        for number, each in enumerate(CELLS)
    )
    report = msgspec.structs.replace(REPORT, cells=dated)
    assert from_json(to_json(report)) == report


def written(folder: Path, name: str, date: str, *cells: Cell, commit: str = "abc", **machine: str) -> Path:
    report = msgspec.structs.replace(
        REPORT,
        machine=msgspec.structs.replace(REPORT.machine, **machine),
        cells=tuple(msgspec.structs.replace(cell, date=date, commit=commit) for cell in cells),
    )
    file = folder / name
    file.write_bytes(to_json(report))
    return file


def test_of_equal_cells_the_latest_is_taken_over(tmp_path: Path) -> None:
    new = written(tmp_path, "new", "2026-11-22", cell("llama", "lora", Outcome.PASS))
    old = written(
        tmp_path, "old", "2026-11-21", cell("llama", "lora", Outcome.FAIL), cell("opt", "lora", Outcome.PASS)
    )
    found = cells_in([new, old], REPORT.machine)
    assert {key: (each.outcome, each.date) for key, each in found.items()} == {
        ("llama", "lora", "graph"): (Outcome.PASS, "2026-11-22"),
        ("opt", "lora", "graph"): (Outcome.PASS, "2026-11-21"),
    }


def test_a_cell_that_does_not_say_its_commit_is_tried_again(tmp_path: Path) -> None:
    known = written(tmp_path, "old", "2026-11-22", cell("llama", "lora", Outcome.PASS), commit="")
    assert cells_in([known], REPORT.machine) == {}


def test_what_is_no_report_of_these_versions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"was made with peft 0\.1, and here is peft "):
        cells_in([written(tmp_path, "old", "2026-11-22", peft="0.1")], REPORT.machine)
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="is no report of this benchmark"):
        cells_in([tmp_path / "empty"], REPORT.machine)
    with pytest.raises(UsageError, match="cannot read"):
        cells_in([tmp_path / "none"], REPORT.machine)
