"""What daemons have written down is found again, and it is said of which model it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.cost_file import FOLDER, CostFile
from symbiosis_scheduler.decisions.costs import Costs, Curves
from symbiosis_scheduler.measured import Measured

OPS = [OpSpec(OpId(number), OpKind.LINEAR, (name,), 8, (8,), DType.FLOAT32) for number, name in enumerate("ab")]


def learned(factor: int) -> Curves:
    """Op b takes longer, and longest backward."""
    costs = Costs()
    for op in OPS:
        costs.introduce(op, OpId(op.id))
        for direction in Direction:
            costs.learn(OpId(op.id), direction, 4, factor * (1 + op.id) * (1 + direction.value))
    return costs.written_down()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMBIOSIS_CACHE", str(tmp_path))
    return tmp_path / FOLDER


def written(folder: Path, model: str, factor: int, at_s: int) -> Path:
    file = CostFile(folder, f"f00d{factor}", "float32", model=model)
    file.save(learned(factor))
    os.utime(file.path, (at_s, at_s))
    return file.path


def test_the_file_that_was_written_last_is_taken_unless_a_model_or_a_file_is_named(folder: Path) -> None:
    """Whatever stands beside it that is no such file."""
    old, new = written(folder, "llama", 100, at_s=1000), written(folder, "smollm2", 1000, at_s=2000)
    (folder / "torn.json").write_bytes(b"{")
    latest = Measured.read()
    assert latest.longest_us(4) == pytest.approx(1000 * 2 * 2), "the longest op in the longer direction"
    assert latest.told.startswith(f"measured: smollm2 (f00d1000 float32), in {new}; 1 more")
    assert Measured.read(model="llama").longest_us(4) == pytest.approx(100 * 2 * 2)
    picked = Measured.read(old)
    assert picked.longest_us(4) == pytest.approx(400)
    assert picked.told == f"measured: llama (f00d100 float32), in {old}"


def test_what_was_never_measured_is_told(folder: Path) -> None:
    nothing = Measured.read()
    assert nothing.longest_us(4) is None and "nothing was measured" in nothing.told
    path = written(folder, "llama", 100, at_s=1000)
    with pytest.raises(UsageError, match=r"mistral.*known are: llama"):
        Measured.read(model="mistral")
    path.write_bytes(b"{}")
    with pytest.raises(UsageError, match="has no measured costs"):
        Measured.read(path)
