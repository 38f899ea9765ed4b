"""Segments: all row-wise frozen work between two attentions, as data that can be checked.

A segment is a short straight-line program over rows. It names frozen weights (ops and small tensors of the
catalogue), never code, and every function in it looks at one row at a time. So it has no idea of batches or
sequences, rows of different clients may be computed together, and a request for it is pure.

Values are numbered: first the inputs (rows of the client), then the tensors (frozen vectors, the same for every
row), then one value for each node. What is made of frozen vectors alone, such as the `1 + weight` of some norms,
is a frozen vector again. `check` gives every value its width and element type, or says what is wrong; both sides
run it, so a segment that a client records is one that a daemon takes.

    backward: rows of all inputs, then output gradients, in; gradients of the floating inputs out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec, Plane, TensorSpec

__all__ = [
    "MAX_NODES",
    "MAX_PLANES",
    "Fn",
    "Node",
    "Segment",
    "SegmentSpec",
    "check",
    "describe",
    "frozen_values",
    "inputs_behind",
]

MAX_NODES: Final = 512
MAX_PLANES: Final = 64
_MAX_ROW_BYTES: Final = 4 << 20
"""Of all values of one row together: what a daemon may have to hold at once is bounded by it."""


class Fn(StrEnum):
    """What a node computes. Row-wise by construction: nothing here can mix two rows."""

    LINEAR = "linear"
    """`op` of the catalogue, a linear one or fused siblings."""
    LOOKUP = "lookup"
    """`op` of the catalogue, an embedding; its argument is one token id."""
    TAKE = "take"
    """The columns `start` to `start + width`."""
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    """Of two values, or of a value and `number`. A value of width 1 meets every column."""
    POW = "pow"
    """To the power of `number`."""
    NEG = "neg"
    RSQRT = "rsqrt"
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    MEAN = "mean"
    """Over the row; one column."""
    CAST = "cast"
    """To `dtype`."""
    LAYER_NORM = "layer_norm"
    """Of a value, a weight and a bias, both frozen vectors; the bias or both may lack. `number` is epsilon."""
    CROSS_ENTROPY = "cross_entropy"
    """Of logits and one target class per row; one column. A target of `start` counts nothing."""


class Node(msgspec.Struct, frozen=True, array_like=True):
    """One step. Fields that a function does not speak of keep their defaults."""

    fn: Fn
    args: Annotated[tuple[int, ...], Meta(max_length=4)]
    """Numbers of earlier values."""
    op: int = -1
    number: float | None = None
    start: int = 0
    width: int = 0
    dtype: DType | None = None


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A program over rows. Two clients that record the same one are batched together."""

    inputs: Annotated[tuple[Plane, ...], Meta(min_length=1, max_length=MAX_PLANES)]
    tensors: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=MAX_PLANES)]
    nodes: Annotated[tuple[Node, ...], Meta(min_length=1, max_length=MAX_NODES)]
    outputs: Annotated[tuple[int, ...], Meta(min_length=1, max_length=MAX_PLANES)]
    """Numbers of the values that the client gets; each is a node's, and none stands twice."""


class SegmentSpec:
    """A checked segment under the id that it is called by. Has what the daemon asks of any op."""

    __slots__ = ("_planes", "first_node", "id", "name", "segment", "values", "wants")

    def __init__(self, id: OpId, segment: Segment, values: tuple[Plane, ...], name: str) -> None:
        self.id = id
        self.segment = segment
        self.values = values
        """The plane of every value."""
        self.name = name
        self.first_node = len(segment.inputs) + len(segment.tensors)
        outputs = tuple(values[value] for value in segment.outputs)
        self.wants = tuple(index for index, plane in enumerate(segment.inputs) if plane.dtype.is_floating)
        """The inputs that have gradients."""
        self._planes = (
            (segment.inputs, outputs),
            (segment.inputs + outputs, tuple(segment.inputs[index] for index in self.wants)),
        )

    def __repr__(self) -> str:
        return f"<SegmentSpec {self.id} {self.name}>"

    def planes_in(self, direction: Direction) -> tuple[Plane, ...]:
        """What the client sends."""
        return self._planes[direction][0]

    def planes_out(self, direction: Direction) -> tuple[Plane, ...]:
        """What the daemon answers. Empty: there is nothing to ask for."""
        return self._planes[direction][1]


def describe(segment: Segment, ops: Sequence[OpSpec]) -> str:
    """Returns a name for people: the ops that a segment goes through."""
    named = [ops[node.op].name for node in segment.nodes if 0 <= node.op < len(ops)]
    return " > ".join(named) or "no op"


def check(segment: Segment, ops: Sequence[OpSpec], tensors: Mapping[str, TensorSpec]) -> tuple[Plane, ...]:
    """Returns the plane of every value of a segment over this catalogue.

    Raises:
        RefusedError: BAD_SEGMENT, with the node and the reason.
    """
    values: list[Plane] = list(segment.inputs)
    if any(plane.width < 1 for plane in values):
        raise _refusal("an input has no columns")
    for name in segment.tensors:
        tensor = tensors.get(name)
        if tensor is None or len(tensor.shape) != 1 or not tensor.dtype.is_floating:
            raise _refusal(f"{name} is no frozen vector of this model")
        values.append(Plane(tensor.shape[0], tensor.dtype))
    frozen = frozen_values(segment)
    first_node = len(values)
    for index, node in enumerate(segment.nodes):
        if not all(0 <= arg < len(values) for arg in node.args):
            raise _refusal(f"node {index} reads a value that is not there yet")
        if not node.args or (len(values) in frozen and node.fn not in _ELEMENTWISE):
            raise _refusal(f"node {index} reads no rows")
        try:
            values.append(_plane(node, [values[arg] for arg in node.args], [a in frozen for a in node.args], ops))
        except _UnfitError as error:
            raise _refusal(f"node {index} ({node.fn}): {error}") from None
    if len(set(segment.outputs)) < len(segment.outputs):
        raise _refusal("an output stands twice")
    if not all(first_node <= output < len(values) and output not in frozen for output in segment.outputs):
        raise _refusal("an output is no node's value, or has no rows")
    row_bytes = sum(plane.row_bytes for plane in values)
    if row_bytes > _MAX_ROW_BYTES:
        raise _refusal(f"the values of one row take {row_bytes} bytes; at most {_MAX_ROW_BYTES} are allowed")
    return tuple(values)


def frozen_values(segment: Segment) -> frozenset[int]:
    """Returns the numbers of the values that are the same for every row."""
    first = len(segment.inputs)
    frozen = set(range(first, first + len(segment.tensors)))
    for value, node in enumerate(segment.nodes, first + len(segment.tensors)):
        if node.args and frozen.issuperset(node.args):
            frozen.add(value)
    return frozenset(frozen)


def inputs_behind(segment: Segment, outputs: Iterable[int]) -> frozenset[int]:
    """Returns the numbers of the inputs that values depend on; `outputs` are values' numbers."""
    first_node = len(segment.inputs) + len(segment.tensors)
    behind = set(outputs)
    for value in range(first_node + len(segment.nodes) - 1, first_node - 1, -1):
        if value in behind:
            behind.update(segment.nodes[value - first_node].args)
    return frozenset(value for value in behind if value < len(segment.inputs))


class _UnfitError(Exception):
    """What does not fit in one node."""


def _plane(node: Node, args: list[Plane], frozen: list[bool], ops: Sequence[OpSpec]) -> Plane:
    """Returns the plane of what `node` makes of `args`."""
    most = _ARITY.get(node.fn, 1) - (node.fn in _BINARY and node.number is not None)
    if len(args) != most and not (node.fn is Fn.LAYER_NORM and len(args) < most):
        raise _UnfitError(f"{len(args)} arguments")
    first = args[0]
    if node.fn in (Fn.LINEAR, Fn.LOOKUP):
        return _op_plane(node, first, frozen[0], ops)
    if node.fn is Fn.CROSS_ENTROPY:
        if args[1] != Plane(1, DType.INT64) or not first.dtype.is_floating or any(frozen):
            raise _UnfitError("takes floating logits and one int64 target per row")
        return Plane(1, first.dtype)
    if not all(plane.dtype.is_floating for plane in args):
        raise _UnfitError("takes floating values")
    if node.fn is Fn.LAYER_NORM:
        widths = {plane.width for plane in args}
        if frozen[0] or not all(frozen[1:]) or widths != {first.width} or node.number is None:
            raise _UnfitError("takes rows, then a weight and a bias of their width, and an epsilon")
        return first
    if node.fn in _BINARY:
        return _broadcast(args)
    if node.fn is Fn.TAKE:
        if node.start < 0 or node.width < 1 or node.start + node.width > first.width:
            raise _UnfitError(f"columns {node.start} to {node.start + node.width} of {first.width}")
        return Plane(node.width, first.dtype)
    if node.fn is Fn.CAST:
        if node.dtype is None or not node.dtype.is_floating:
            raise _UnfitError("casts to a floating type only")
        return Plane(first.width, node.dtype)
    if node.fn is Fn.POW and node.number is None:
        raise _UnfitError("lacks the exponent")
    return Plane(1, first.dtype) if node.fn is Fn.MEAN else first


def _op_plane(node: Node, x: Plane, frozen: bool, ops: Sequence[OpSpec]) -> Plane:
    if not 0 <= node.op < len(ops):
        raise _UnfitError(f"there is no op {node.op}")
    op = ops[node.op]
    kind = OpKind.LINEAR if node.fn is Fn.LINEAR else OpKind.EMBEDDING
    if op.kind is not kind or frozen:
        raise _UnfitError(f"op {node.op} is a {op.kind}")
    if x != Plane(*op.row_in(Direction.FORWARD)):
        raise _UnfitError(f"{op.name} takes rows of {op.row_in(Direction.FORWARD)}, not {tuple(x)}")
    return Plane(*op.row_out(Direction.FORWARD))


def _broadcast(args: list[Plane]) -> Plane:
    widths = {plane.width for plane in args} - {1}
    if len(widths) > 1:
        raise _UnfitError(f"widths {sorted(widths)} do not fit together")
    dtypes = {plane.dtype for plane in args}
    mixed = DType.FLOAT64 if DType.FLOAT64 in dtypes else DType.FLOAT32
    dtype = mixed if len(dtypes) > 1 else dtypes.pop()
    return Plane(widths.pop() if widths else 1, dtype)


def _refusal(reason: str) -> RefusedError:
    return RefusedError(RefusalCode.BAD_SEGMENT, reason, "install the same release of symbiosis-llm on both sides")


_BINARY: Final = frozenset({Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV})
_ARITY: Final = dict.fromkeys(_BINARY, 2) | {Fn.LAYER_NORM: 3, Fn.CROSS_ENTROPY: 2}
_ELEMENTWISE: Final = _BINARY | {
    Fn.POW,
    Fn.NEG,
    Fn.RSQRT,
    Fn.SILU,
    Fn.GELU,
    Fn.GELU_TANH,
    Fn.RELU,
    Fn.SIGMOID,
    Fn.TANH,
    Fn.CAST,
}
"""What may be done to a frozen vector."""
