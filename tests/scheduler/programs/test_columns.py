"""Columns of a linear of which nothing else is read are computed alone, and kept if a backward wants them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symbiosis_core.config import LendingConfig
from symbiosis_core.ids import OpId
from symbiosis_core.segments import Fn, Node, Segment, SegmentSpec, check
from symbiosis_core.specs import Direction, DType, OpKind, Plane
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.lending import place_for
from symbiosis_scheduler.frozen.loading import load
from symbiosis_scheduler.programs.program import Program
from tests.quantisers import quantize
from tests.scheduler.programs.test_program import ROWS, D, FakeLinear, FakeWeights, V, rows
from tests.scheduler.tiny_models import tiny

__all__ = ["quantize"]  # a fixture

HEAD, START, WIDTH = 3, 7, 9
COLUMNS = (Node(Fn.LINEAR, (0,), op=HEAD), Node(Fn.TAKE, (1,), start=START, width=WIDTH))


class Noting(FakeWeights):
    """Notes how wide its products are."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def layer(self, op: int) -> FakeLinear:
        widths = self.widths

        class Noted(FakeLinear):
            def forward(self, x: Any, out: Any) -> Any:
                widths.append(len(self.weight_OD))
                return super().forward(x, out)

            def backward(self, dy: Any, out: Any) -> Any:
                widths.append(dy.shape[1])
                return super().backward(dy, out)

        return Noted(self.matrices[op])


def segment(*more: Node, outputs: tuple[int, ...]) -> Segment:
    return Segment((Plane(D, DType.FLOAT32),), (), (*COLUMNS, *more), outputs)


def test_no_other_column_is_computed_there_or_back() -> None:
    weights = Noting()
    program = weights.program(segment(outputs=(2,)))
    part = weights.matrices[HEAD][START : START + WIDTH]
    x, dy = rows(ROWS, D), rows(ROWS, WIDTH, seed=2)
    torch.testing.assert_close(program.forward([x]), [x @ part.t()])
    torch.testing.assert_close(program.backward([x], [dy]), [dy @ part])
    assert weights.widths == [WIDTH, WIDTH]


@pytest.mark.parametrize("outputs", [(1, 2), (2, 3)])
def test_where_more_of_the_linear_is_read_it_is_computed_once_and_whole(outputs: tuple[int, ...]) -> None:
    weights = Noting()
    other = Node(Fn.TAKE, (1,), start=0, width=3)
    weights.program(segment(other, outputs=outputs)).forward([rows(ROWS, D)])
    assert weights.widths == [V]


def test_a_memo_keeps_columns_that_the_backward_reads() -> None:
    """An activation after them; without the memo they are computed again."""
    weights = Noting()
    program = weights.program(segment(Node(Fn.SILU, (2,)), outputs=(3,)))
    assert program.saved == (2,)
    x, dy, kept = rows(ROWS, D), rows(ROWS, WIDTH, seed=2), dict[int, torch.Tensor]()
    program.forward([x], kept)
    weights.widths.clear()
    found = program.backward([x], [dy], kept)
    assert weights.widths == [WIDTH]
    assert torch.equal(found[0], program.backward([x], [dy])[0])


def check_columns(layers: FrozenLayers, ops: set[str]) -> None:
    """A program over columns of each op gives what the op gives there, and its gradient what those columns do."""
    seen = set()
    for op in layers.spec.ops:
        if op.kind is not OpKind.LINEAR or op.name not in ops:
            continue
        seen.add(op.name)
        start, width = op.width_out // 4, op.width_out // 2
        nodes = (Node(Fn.LINEAR, (0,), op.id), Node(Fn.TAKE, (1,), start=start, width=width))
        made = Segment((Plane(op.width_in, op.dtype),), (), nodes, (2,))
        program = Program(SegmentSpec(OpId(10_000), made, check(made, layers.spec.ops, {}), "columns"), layers)
        x, dy = rows(ROWS, op.width_in), rows(ROWS, width, seed=2)
        whole = torch.zeros(ROWS, op.width_out)
        whole[:, start : start + width] = dy
        expected = layers.apply(op, Direction.FORWARD, x)[:, start : start + width]
        torch.testing.assert_close(program.forward([x]), [expected], rtol=1e-5, atol=1e-6)
        expected = layers.apply(op, Direction.BACKWARD, whole)
        torch.testing.assert_close(program.backward([x], [dy]), [expected], rtol=1e-5, atol=1e-6)
    assert seen == ops


def test_columns_of_real_layers_with_biases_and_of_siblings(tmp_path: Any) -> None:
    tiny("qwen2").save_pretrained(tmp_path)
    layers = FrozenLayers(load(str(tmp_path), DType.FLOAT32))
    check_columns(layers, {"model.layers.0.self_attn.{q_proj,k_proj,v_proj}", "model.layers.0.self_attn.q_proj"})


def test_columns_of_quantised_layers(tmp_path: Any, quantize: str) -> None:
    tiny("qwen2").save_pretrained(tmp_path)
    loaded = load(str(tmp_path), DType.FLOAT32, quantize=quantize)
    layers = FrozenLayers(loaded, place_for(loaded.model, LendingConfig(), torch.device("cpu")))
    check_columns(layers, {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"})
