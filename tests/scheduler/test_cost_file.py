"""Curves outlive a daemon, and nothing that stands in a file can keep one from starting."""

from __future__ import annotations

from pathlib import Path

import pytest

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.cost_file import CostFile
from symbiosis_scheduler.decisions.costs import Costs

OP = OpSpec(OpId(0), OpKind.LINEAR, ("a",), 8, (8,), DType.FLOAT32)


def learned() -> Costs:
    costs = Costs()
    costs.introduce(OP, OpId(0))
    costs.learn(OpId(0), Direction.FORWARD, 4, 700)
    return costs


def expected_us(file: CostFile) -> float | None:
    costs = Costs([file.load()])
    costs.introduce(OP, OpId(0))
    return costs.expected_us(OpId(0), Direction.FORWARD, 4)


def test_curves_are_there_again_for_the_same_model_and_threads_and_for_no_other(tmp_path: Path) -> None:
    CostFile(tmp_path / "costs", "f00d", "2 threads").save(learned().written_down())
    assert expected_us(CostFile(tmp_path / "costs", "f00d", "2 threads")) == 700
    assert expected_us(CostFile(tmp_path / "costs", "f00d", "1 thread")) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99, "of": "a", "curves": {}}', b"\xff\xfe", b"[]"])
def test_a_file_that_is_no_such_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    file = CostFile(tmp_path, "a")
    file.path.write_bytes(content)
    assert expected_us(file) is None
    file.save(learned().written_down())
    assert expected_us(file) == 700


def test_a_folder_that_cannot_be_written_is_told_and_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("not a folder")
    file = CostFile(tmp_path / "taken", "a")
    file.save(learned().written_down())
    assert expected_us(file) is None
    assert "are not kept" in caplog.text
