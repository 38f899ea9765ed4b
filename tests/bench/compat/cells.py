"""Cells, and a report of them."""

from __future__ import annotations

from typing import Any

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.compat.report import Report
from symbiosis_bench.machine import this_machine


def cell(family: str, method: str, outcome: Outcome, **more: Any) -> Cell:
    return Cell(family=family, method=method, cut="graph", outcome=outcome, **more)


MERGE_LENT = {Step.MERGE: Outcome.LENT}
MORE: dict[str, Any] = {"left_out": {Step.MERGE: "no"}, "also": "attention", "by_floor": 2, "commit": "abc"}
CELLS = (
    cell("llama", "lora", Outcome.PASS, trips=1.0, served="graph", equal=6, **MORE),
    cell("llama", "ia3", Outcome.FAIL, reason="loss: model.layers.0.mlp.up_proj: off by 3e-02"),
    cell("gpt2", "lora", Outcome.LENT, trips=1.5, served="siblings", steps=MERGE_LENT, reason="merge: x"),
    cell("gpt2", "ia3", Outcome.FAIL, reason="loss: model.layers.1.mlp.up_proj: off by 5e-01"),
    cell("opt", "lora", Outcome.LENT, steps={Step.ADAPT: Outcome.LENT}, reason="adapt: x"),
    cell("opt", "ia3", Outcome.NOT_PLAIN, reason="adapt: ValueError: no"),
)
REPORT = Report(
    machine=this_machine(),
    families=("llama", "gpt2", "opt"),
    methods=("lora", "ia3"),
    cuts=("graph",),
    cells=CELLS,
)
