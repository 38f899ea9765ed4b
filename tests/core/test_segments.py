"""A segment is checked as data: whoever sends one that does not fit learns which node, and nothing is computed."""

from __future__ import annotations

import pytest

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import OpId
from symbiosis_core.segments import MAX_NODES, Fn, Node, Segment, SegmentSpec, check, describe, inputs_behind
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec, Plane, TensorKind, TensorSpec
from tests.core.messages import SEGMENT

BF16, F32 = DType.BFLOAT16, DType.FLOAT32
OPS = (
    OpSpec(OpId(0), OpKind.LINEAR, ("o",), 8, (8,), BF16),
    OpSpec(OpId(1), OpKind.LINEAR, ("gate", "up"), 8, (12, 12), BF16),
    OpSpec(OpId(2), OpKind.EMBEDDING, ("embed",), 1, (8,), BF16),
)
TENSORS = {
    name: TensorSpec(name, TensorKind.PARAMETER, dtype, shape)
    for name, dtype, shape in (
        ("norm", BF16, (8,)),
        ("bias", BF16, (8,)),
        ("matrix", BF16, (8, 8)),
        ("steps", DType.INT64, (8,)),
    )
}
ROWS = Plane(8, BF16)
IDS = Plane(1, DType.INT64)


def checked(
    *nodes: Node, inputs: tuple[Plane, ...] = (ROWS,), tensors: tuple[str, ...] = (), outputs: tuple[int, ...] = ()
) -> tuple[Plane, ...]:
    last = len(inputs) + len(tensors) + len(nodes) - 1
    return check(Segment(inputs, tensors, nodes, outputs or (last,)), OPS, TENSORS)


def reason(*nodes: Node, **rest: object) -> str:
    with pytest.raises(RefusedError) as refused:
        checked(*nodes, **rest)  # type: ignore[arg-type]
    assert refused.value.code is RefusalCode.BAD_SEGMENT
    return refused.value.reason


def test_every_value_gets_its_plane() -> None:
    """Inputs, then tensors, then nodes."""
    planes = checked(
        Node(Fn.LINEAR, (0,), op=1),
        Node(Fn.TAKE, (2,), start=12, width=12),
        Node(Fn.CAST, (3,), dtype=F32),
        Node(Fn.MEAN, (4,)),
        Node(Fn.MUL, (1, 0)),
        tensors=("norm",),
    )
    assert planes == (ROWS, ROWS, Plane(24, BF16), Plane(12, BF16), Plane(12, F32), Plane(1, F32), ROWS)


def test_what_a_value_depends_on_is_followed_to_the_inputs() -> None:
    nodes = (Node(Fn.ADD, (0, 1)), Node(Fn.MUL, (2, 3)), Node(Fn.NEG, (4,)))
    segment = Segment((ROWS, ROWS, ROWS), ("norm",), nodes, (4, 5, 6))
    assert inputs_behind(segment, [4]) == {0, 1}
    assert inputs_behind(segment, [5]) == {2}
    assert inputs_behind(segment, [6]) == {0, 1}
    assert inputs_behind(segment, [5, 6]) == {0, 1, 2}
    assert not inputs_behind(segment, [])


def test_mixed_types_meet_as_torch_promotes_them() -> None:
    cast = Node(Fn.CAST, (0,), dtype=F32)
    assert checked(cast, Node(Fn.ADD, (0, 1)))[-1] == Plane(8, F32)
    half = Node(Fn.CAST, (0,), dtype=DType.FLOAT16)
    assert checked(half, Node(Fn.ADD, (0, 1)))[-1] == Plane(8, F32)
    double = Node(Fn.CAST, (0,), dtype=DType.FLOAT64)
    assert checked(double, Node(Fn.SUB, (0, 1)))[-1] == Plane(8, DType.FLOAT64)


def test_one_column_meets_every_column() -> None:
    assert checked(Node(Fn.MEAN, (0,)), Node(Fn.DIV, (0, 1)))[-1] == ROWS


def test_the_loss_takes_a_target_for_every_row() -> None:
    assert checked(Node(Fn.CROSS_ENTROPY, (0, 1), start=-100), inputs=(ROWS, IDS))[-1] == Plane(1, BF16)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node(Fn.ADD, (0, 7)), "not there yet"),
        (Node(Fn.ADD, (0, -1)), "not there yet"),
        (Node(Fn.ADD, (0, 2)), "not there yet"),  # itself
        (Node(Fn.ADD, (0, 1, 0)), "3 arguments"),
        (Node(Fn.ADD, (0,)), "1 arguments"),
        (Node(Fn.ADD, (0, 1), number=1.0), "2 arguments"),
        (Node(Fn.NEG, ()), "no rows"),
        (Node(Fn.MEAN, (1,)), "no rows"),  # of a frozen vector alone
        (Node(Fn.LINEAR, (0,), op=3), "no op 3"),
        (Node(Fn.LINEAR, (0,), op=-1), "no op -1"),
        (Node(Fn.LINEAR, (0,), op=2), "is a embedding"),
        (Node(Fn.LOOKUP, (0,), op=2), "takes rows of"),
        (Node(Fn.LOOKUP, (0,), op=0), "is a linear"),
        (Node(Fn.TAKE, (0,), start=4, width=5), "columns 4 to 9 of 8"),
        (Node(Fn.TAKE, (0,), start=-1, width=2), "columns -1"),
        (Node(Fn.TAKE, (0,), start=0, width=0), "columns 0 to 0"),
        (Node(Fn.CAST, (0,), dtype=DType.INT64), "floating"),
        (Node(Fn.CAST, (0,)), "floating"),
        (Node(Fn.POW, (0,)), "exponent"),
        (Node(Fn.LAYER_NORM, (0, 1, 1)), "epsilon"),
        (Node(Fn.LAYER_NORM, (0, 0, 0), number=1e-5), "a weight and a bias"),
        (Node(Fn.CROSS_ENTROPY, (0, 0)), "target"),
    ],
)
def test_a_node_that_does_not_fit_is_named(node: Node, said: str) -> None:
    text = reason(node, tensors=("norm",))
    assert said in text
    assert "node 0" in text


def test_widths_must_meet() -> None:
    assert "widths [8, 12]" in reason(
        Node(Fn.LINEAR, (0,), op=1), Node(Fn.TAKE, (1,), width=12), Node(Fn.ADD, (0, 2))
    )


def test_a_linear_takes_rows_of_its_own_kind_only() -> None:
    assert "takes rows of" in reason(Node(Fn.LINEAR, (0,), op=0), inputs=(Plane(8, F32),))
    assert "takes rows of" in reason(Node(Fn.LINEAR, (0,), op=0), inputs=(Plane(9, BF16),))


def test_ids_are_only_looked_up() -> None:
    assert "floating" in reason(Node(Fn.NEG, (0,)), inputs=(IDS,))
    assert checked(Node(Fn.LOOKUP, (0,), op=2), inputs=(IDS,))[-1] == ROWS


@pytest.mark.parametrize("name", ["matrix", "steps", "nothing"])
def test_only_frozen_vectors_are_named(name: str) -> None:
    assert name in reason(Node(Fn.MUL, (0, 1)), tensors=(name,))


def test_what_is_made_of_frozen_vectors_is_one() -> None:
    one_more = (Node(Fn.CAST, (1,), dtype=F32), Node(Fn.ADD, (2,), number=1.0))
    assert checked(*one_more, Node(Fn.MUL, (0, 3)), tensors=("norm",))[-2:] == (Plane(8, F32), Plane(8, F32))
    assert "has no rows" in reason(*one_more, tensors=("norm",))
    assert "no rows" in reason(*one_more, Node(Fn.TAKE, (3,), width=2), tensors=("norm",))
    assert "no rows" in reason(Node(Fn.NEG, (1,)), Node(Fn.LINEAR, (2,), op=0), tensors=("norm",))


@pytest.mark.parametrize("args", [(0,), (0, 1), (0, 1, 2)])
def test_a_layer_norm_may_lack_its_vectors(args: tuple[int, ...]) -> None:
    assert checked(Node(Fn.LAYER_NORM, args, number=1e-5), tensors=("norm", "bias"))[-1] == ROWS


def test_outputs_are_nodes_and_stand_once() -> None:
    assert "no node" in reason(Node(Fn.NEG, (0,)), outputs=(0,))
    assert "no node" in reason(Node(Fn.NEG, (0,)), outputs=(2,))
    assert "twice" in reason(Node(Fn.NEG, (0,)), outputs=(1, 1))


def test_an_input_has_columns() -> None:
    assert "no columns" in reason(Node(Fn.NEG, (0,)), inputs=(Plane(0, BF16),))


def test_what_one_row_may_hold_is_bounded() -> None:
    """Or a client could make the daemon allocate without end."""
    wide = Plane(1 << 18, F32)
    assert "at most" in reason(*[Node(Fn.NEG, (index,)) for index in range(4)], inputs=(wide,))
    assert MAX_NODES >= 256


def test_a_checked_segment_says_what_crosses() -> None:
    """Backward: all inputs and the output gradients in, gradients of the floating inputs out."""
    nodes = (Node(Fn.LOOKUP, (1,), op=2), Node(Fn.ADD, (0, 2)))
    segment = Segment((ROWS, IDS), (), nodes, (2, 3))
    spec = SegmentSpec(OpId(9), segment, check(segment, OPS, TENSORS), describe(segment, OPS))
    assert spec.name == "embed"
    assert spec.planes_in(Direction.FORWARD) == (ROWS, IDS)
    assert spec.planes_out(Direction.FORWARD) == (ROWS, ROWS)
    assert spec.planes_in(Direction.BACKWARD) == (ROWS, IDS, ROWS, ROWS)
    assert spec.planes_out(Direction.BACKWARD) == (ROWS,)


def test_equal_segments_are_one() -> None:
    """The daemon knows segments by content."""
    again = Segment(SEGMENT.inputs, SEGMENT.tensors, SEGMENT.nodes, SEGMENT.outputs)
    assert again is not SEGMENT
    assert {SEGMENT: 1}[again] == 1
