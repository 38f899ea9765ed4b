"""A standing can be read on a terminal of 80 columns, and as plain lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from symbiosis_bench.demo.standing import Standing
from symbiosis_bench.demo.table import batches_line, lines, memory_line, picture
from symbiosis_core.wire import BatchStatus
from tests.bench.samples import held, outcome


def rendered(standing: Standing, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(picture(standing))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_has_every_tenant_with_its_figures(width: int) -> None:
    shown = rendered(outcome([4.0, 1.0]).standing, width)
    for word in ("persona", "pydocs", "bookings", "chat", "training", "inference", "461 k", "4.00→1.00", "40 tok"):
        assert word in shown
    assert "…" not in shown.partition("chat:")[0]
    assert max(len(line) for line in shown.splitlines()) <= width


def test_the_picture_shows_what_the_chat_says_on_one_line() -> None:
    assert "chat: What is the capital of France? Paris. It is." in rendered(outcome([4.0]).standing, 80)


def test_before_the_first_step_there_is_a_picture_too() -> None:
    shown = rendered(outcome([], tokens=0).standing, 80)
    assert "→" not in shown
    assert "0.4/12.1" in shown


def test_plain_lines_say_the_same_without_markup() -> None:
    text = "\n".join(lines(outcome([4.0, 1.0]).standing))
    assert "10 of 10 s" in text
    assert "persona: 2 steps, loss 4.00→1.00, 19.2 rows/s, 0.4/12.1 ms a request" in text
    assert "chat: 40 tokens, 6.0 rows/s, 50/99 ms a token" in text


def test_batches_are_told_with_their_rate_and_what_is_in_one() -> None:
    told = batches_line(BatchStatus(1000, 1200, 50_000, 1100, 7.5), 10.0)
    assert told == "batches: 1,000 (100/s) with 50.0 rows of 1.10 tenants each; computing 75% of the time"
    assert batches_line(BatchStatus(0, 0, 0, 0, 0.0), 10.0) == "batches: none yet"


def test_memory_is_told_as_shared_against_dedicated() -> None:
    assert memory_line(held(600_000_000, 2_000_000_000)) == (
        "memory: base 269 MB, held once; in all 2,600 MB (daemon 600 MB, tenants 2,000 MB); "
        "a base in each tenant: 3,076 MB"
    )
    assert "does not tell" in memory_line(held(None, None))
