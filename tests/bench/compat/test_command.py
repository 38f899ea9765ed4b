"""`symbiosis bench compat` as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from symbiosis_bench.compat.cell import Outcome
from symbiosis_bench.compat.families import FAMILIES, QUICK_FAMILIES
from symbiosis_bench.compat.methods import METHODS, QUICK_METHODS
from symbiosis_bench.compat.page import page
from symbiosis_bench.compat.report import from_json

MAIN = [sys.executable, "-m", "symbiosis_core", "bench", "compat"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run([*MAIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("option", "says"), [("--families", "there are llama,"), ("--methods", "there are lora,")]
)
def test_a_name_that_does_not_exist_is_told(option: str, says: str, tmp_path: Path) -> None:
    done = run(tmp_path, option, "lama")
    assert done.returncode == 2
    assert f"{option} lama: {says}" in done.stderr


@pytest.mark.parametrize("part", [["--quick"], ["--families", "llama"], ["--cuts", "graph"]])
def test_a_part_of_the_table_does_not_overwrite_a_page(part: list[str], tmp_path: Path) -> None:
    """Nor the file of the cells: it is told before anything is touched."""
    page = tmp_path / "compat.md"
    page.write_text("all of it")
    done = run(tmp_path, *part, "--page", "compat.md", "--json", "out.json")
    assert done.returncode == 2
    assert "--page compat.md is there, and would be overwritten by a part of the table" in done.stderr
    assert page.read_text() == "all of it" and not (tmp_path / "out.json").exists()


def test_the_quick_table_passes(tmp_path: Path) -> None:
    """For real: daemons, every step, both cuts. What does not pass here is a step back, a refused merge, too."""
    done = run(tmp_path, "--quick", "--json", "out.json", "--page", "out.md")
    assert done.returncode == 0, done.stdout + done.stderr
    told = from_json((tmp_path / "out.json").read_bytes())
    assert [
        (each.family, each.method, each.reason) for each in told.cells if each.outcome is not Outcome.PASS
    ] == []
    assert len(told.cells) == len(QUICK_FAMILIES) * len(QUICK_METHODS) * 2
    assert {each.served for each in told.cells if each.cut == "graph"} == {"graph"}
    assert json.loads((tmp_path / "out.json").read_text())["machine"]["cores"] > 0
    assert (tmp_path / "out.md").read_text() == page(told)
    again = run(tmp_path, "--quick", "--from", "out.json", "--json", "out.json", "--page", "again.md")
    assert again.returncode == 0, again.stdout + again.stderr
    assert from_json((tmp_path / "out.json").read_bytes()).cells == told.cells
    assert (tmp_path / "again.md").read_text() == (tmp_path / "out.md").read_text()
    assert not list(tmp_path.glob("sy-compat-*"))


UNSTEADY = "lora-ga"
"""Signs of singular vectors, which the last bit of a weight turns round: see docs/compat.md."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("families", "methods"),
    [
        pytest.param(FAMILIES, ("lora all", "dora", "ia3", "prefix"), id="every family"),
        pytest.param(("llama",), [method for method in METHODS if method != UNSTEADY], id="every method"),
    ],
)
def test_a_row_and_some_columns_of_the_table_have_no_failure(
    families: Iterable[str], methods: Iterable[str], tmp_path: Path
) -> None:
    done = run(tmp_path, "--families", ",".join(families), "--methods", ",".join(methods), "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = from_json((tmp_path / "out.json").read_bytes())
    assert [(each.family, each.method, each.reason) for each in told.cells if each.outcome is Outcome.FAIL] == []
    assert sum(each.outcome is Outcome.PASS for each in told.cells) > 0.9 * len(told.cells)
