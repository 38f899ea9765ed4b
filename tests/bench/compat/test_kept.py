"""The page in the repository is what the cells beside it say, and they are all there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import pytest

from symbiosis_bench.compat.families import FAMILIES
from symbiosis_bench.compat.methods import METHODS
from symbiosis_bench.compat.page import by_hand, page
from symbiosis_bench.compat.report import Report, from_json

DOCS: Final = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def kept() -> Report:
    return from_json((DOCS / "compat.json").read_bytes())


def test_the_page_is_what_the_cells_say(kept: Report) -> None:
    written = DOCS / "compat.md"
    assert written.read_text() == page(kept) + by_hand(written)


def test_no_cell_is_left_out(kept: Report) -> None:
    cells = [(cell.family, cell.method, cell.cut) for cell in kept.cells]
    assert cells == list(itertools.product(FAMILIES, METHODS, ("graph", "siblings")))
