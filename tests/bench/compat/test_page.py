"""The page shows every cell and every reason, and is the same for the same report."""

from __future__ import annotations

from pathlib import Path

import msgspec

from symbiosis_bench.compat.page import by_hand, page
from symbiosis_bench.compat.report import from_json, to_json
from tests.bench.compat.cells import CELLS, REPORT


def test_the_page_shows_every_cell_and_every_reason() -> None:
    _, _, cells = page(REPORT).partition("## The cells")
    lines = cells.splitlines()
    assert [line for line in lines if line.startswith(("| llama", "| gpt2", "| opt"))] == [
        "| llama | 1* -m |",
        "| gpt2 | (1.5 siblings) |",
        "| opt | weights |",
        "| llama | loss 1 |",
        "| gpt2 | loss 1 |",
        "| opt | - |",
    ]
    assert "1. `loss: up_proj: off by some`: ia3 (llama 3e-02, gpt2 5e-01)." in lines
    assert "- `adapt: ValueError: no`: ia3 (opt)." in lines
    assert "- At once: lora." in lines
    assert "- `merge: no`: lora (1)." in lines
    assert "- `attention: target_modules, the linears that attention begins with`: lora (llama)." in lines
    assert "| graph | 1 | 6 | 0 | 1 of 1 | 1 |" in page(REPORT).splitlines()


def test_the_section_that_is_written_by_hand_outlives_the_page(tmp_path: Path) -> None:
    section = "\n## PEFT's own tests\n\n5 of 6.\n"
    (tmp_path / "old.md").write_text("# Compatibility\n\nSomething.\n" + section)
    assert by_hand(tmp_path / "old.md") == section
    assert by_hand(tmp_path / "none.md") == by_hand(None) == ""


def test_the_same_report_gives_the_same_page() -> None:
    later = msgspec.structs.replace(REPORT.machine, date="2031-01-01T00:00:00+00:00")
    again = msgspec.structs.replace(from_json(to_json(REPORT)), machine=later)
    assert page(again) == page(REPORT)


def test_the_page_begins_with_every_family_and_says_when_and_at_which_commit() -> None:
    days = ("2026-11-22T09:00:00+00:00", "2026-11-21T10:00:00+00:00")
    made = ("abc", "")
    cells = tuple(
        msgspec.structs.replace(each, date=days[index % 2], commit=made[index % 2])
        for index, each in enumerate(CELLS)
    )
    told = page(msgspec.structs.replace(REPORT, cells=cells))
    assert ", 2026-11-21 to 2026-11-22; commit abc, one that was not noted." in told
    summary, _, _ = told.partition("## The cells")
    assert [line for line in summary.splitlines() if line.startswith(("| llama", "| gpt2", "| opt"))] == [
        "| llama | 1 of 2 | 1 | abc, one that was not noted |",
        "| gpt2 | 0 of 2 | 1.5 siblings | abc, one that was not noted |",
        "| opt | 0 of 1 | ? | abc, one that was not noted |",
    ]
