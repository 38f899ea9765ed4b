"""Cells that fail are measured by float64, beside plain PEFT: as near as float32 comes where nothing is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.compat.report import Report, to_json
from symbiosis_bench.machine import this_machine


def test_the_pairs_that_fail_in_gradients_are_measured(tmp_path: Path) -> None:
    """They are made up here, of cells that pass."""
    reasons = [("lora", Step.GRADIENTS), ("ia3", Step.LOSS), ("loha", Step.GRADIENTS), ("lora-ga", Step.GRADIENTS)]
    cells = tuple(
        [
            Cell(family="llama", method=method, cut=cut, outcome=Outcome.FAIL, steps={step: Outcome.FAIL})
            for method, step in reasons
            for cut in ("graph", "siblings")
        ]
    )
    report = Report(
        machine=this_machine(),
        families=("llama",),
        methods=tuple([method for method, _ in reasons]),
        cuts=("graph", "siblings"),
        cells=cells,
    )
    (tmp_path / "cells.json").write_bytes(to_json(report))
    command = [sys.executable, "-m", "tests.compat.against_float64", "--cells", str(tmp_path / "cells.json")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["llama lora", "llama loha"]
    for line in lines:
        amounts = [float(amount) for amount in re.findall(r"\d+e-\d+", line)]
        assert len(amounts) == 3, line
        assert 0 < max(amounts) < 1e-4
