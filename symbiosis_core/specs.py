"""What crosses the border: dtypes, ops and the catalogue of a model.

An *op* is one frozen, row-wise function: `T` rows in, `T` rows out, no row looks at another. That is what
makes ragged batching exact and a request pure. The forward of a linear op maps `T x width_in` to
`T x width_out`; its backward maps the output gradient `T x width_out` to the input gradient `T x width_in`
(dx = dy W) and needs neither the input nor any state.

Several linears that read the same tensor (q, k, v) are also offered as one op with several `members`: their
outputs stand side by side in one row, in the order of `members`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from math import prod
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from symbiosis_core.ids import OpId

__all__ = [
    "PLANE_ALIGNMENT",
    "DType",
    "Direction",
    "LentTensor",
    "ModelSpec",
    "Op",
    "OpKind",
    "OpSpec",
    "Plane",
    "TensorKind",
    "TensorSpec",
    "plane_starts",
]

PLANE_ALIGNMENT: Final = 64
"""Planes start at multiples of a cache line, so that no element straddles one and vector loads are aligned."""


class DType(IntEnum):
    """Element types that may stand in an arena or a tensor reply. Zero is never valid."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3
    INT64 = 4
    FLOAT64 = 5
    INT32 = 6
    BOOL = 7
    UINT8 = 8
    INT8 = 9

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _ITEMSIZE[self]

    @property
    def is_floating(self) -> bool:
        """Whether there are gradients of this type."""
        return self in _FLOATING


_ITEMSIZE = {
    DType.FLOAT32: 4,
    DType.BFLOAT16: 2,
    DType.FLOAT16: 2,
    DType.INT64: 8,
    DType.FLOAT64: 8,
    DType.INT32: 4,
    DType.BOOL: 1,
    DType.UINT8: 1,
    DType.INT8: 1,
}


_FLOATING = frozenset({DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16, DType.FLOAT64})


class Direction(IntEnum):
    """Which way an op is applied."""

    FORWARD = 0
    BACKWARD = 1


class Plane(NamedTuple):
    """The rows of one value, one under the other: how wide, of what."""

    width: int
    dtype: DType

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize


def plane_starts(planes: Sequence[Plane], rows: int) -> tuple[list[int], int]:
    """Returns where each plane of `rows` rows starts, in bytes from the first, and where another may."""
    starts, at = [], 0
    for width, dtype in planes:
        starts.append(at)
        at += -(-rows * width * dtype.itemsize // PLANE_ALIGNMENT) * PLANE_ALIGNMENT
    return starts, at


class Op(Protocol):
    """Whatever a request can ask for: an op of the catalogue, or a segment of several."""

    @property
    def id(self) -> OpId:
        """The number that a call names."""

    @property
    def name(self) -> str:
        """For people."""

    def planes_in(self, direction: Direction) -> tuple[Plane, ...]:
        """What the client sends."""

    def planes_out(self, direction: Direction) -> tuple[Plane, ...]:
        """What the daemon answers. Empty: the op has no such direction."""


class OpKind(StrEnum):
    """How the daemon computes an op."""

    LINEAR = "linear"
    EMBEDDING = "embedding"


class OpSpec(msgspec.Struct, frozen=True, array_like=True):
    """One op of the catalogue."""

    id: OpId
    kind: OpKind
    members: tuple[str, ...]
    """Module paths in the model, as in `named_modules()`; more than one where siblings are fused. See `expert`."""
    width_in: int
    """Elements of one input row. For an embedding 1: the row is a token id."""
    widths_out: tuple[int, ...]
    """Elements of one output row, per member."""
    dtype: DType
    """Element type of the weights and of every floating-point row."""
    expert: int = -1
    """Which matrix of a parameter of three dimensions, whose name is then the only member; -1: a whole module."""
    transposed: bool = False
    """Of an expert: whether it is kept `width_in x width_out` and used as x @ W; else as linear(x, W)."""

    @property
    def width_out(self) -> int:
        """Elements of one whole output row."""
        return sum(self.widths_out)

    @property
    def name(self) -> str:
        """The members' common path with their last parts: `model.layers.0.self_attn.{q_proj,k_proj}`."""
        if self.expert >= 0:
            return f"{self.members[0]}[{self.expert}]"
        if len(self.members) == 1:
            return self.members[0]
        parents = {member.rpartition(".")[0] for member in self.members}
        leaves = ",".join(member.rpartition(".")[2] for member in self.members)
        return f"{parents.pop()}.{{{leaves}}}" if len(parents) == 1 else "{" + ",".join(self.members) + "}"

    def row_in(self, direction: Direction) -> tuple[int, DType]:
        """Width and element type of one row that the client sends."""
        if direction is Direction.BACKWARD:
            return self.width_out, self.dtype
        return self.width_in, DType.INT64 if self.kind is OpKind.EMBEDDING else self.dtype

    def row_out(self, direction: Direction) -> tuple[int, DType]:
        """Width and element type of one row that the daemon answers."""
        return (self.width_in if direction is Direction.BACKWARD else self.width_out), self.dtype

    def planes_in(self, direction: Direction) -> tuple[Plane, ...]:
        """See `Op`."""
        return (Plane(*self.row_in(direction)),)

    def planes_out(self, direction: Direction) -> tuple[Plane, ...]:
        """See `Op`. Token ids have no gradient."""
        if self.kind is OpKind.EMBEDDING and direction is Direction.BACKWARD:
            return ()
        return (Plane(*self.row_out(direction)),)


class TensorKind(StrEnum):
    """Where a small tensor lives in its module."""

    PARAMETER = "parameter"
    BUFFER = "buffer"


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """A small tensor (a norm weight, a rotary table) that the client fetches once and keeps."""

    name: str
    kind: TensorKind
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        count = self.dtype.itemsize
        for extent in self.shape:
            count *= extent
        return count


class LentTensor(msgspec.Struct, frozen=True, array_like=True):
    """Where a weight lies in the memory that is lent: elements in C order from byte `offset` on."""

    name: str
    dtype: DType
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    offset: Annotated[int, Meta(ge=0)]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.dtype.itemsize * prod(self.shape)


class ModelSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a client must know to build the model without its weights."""

    name: str
    """The name in the daemon, used in `address#name`."""
    name_or_path: str
    """What plain PEFT would write as `base_model_name_or_path`."""
    fingerprint: str
    """Content hash over every weight, buffer and the config: equal exactly for equal models."""
    dtype: DType
    base_bytes: int
    """Bytes of all weights that the daemon holds, each counted once."""
    config_json: str
    generation_config_json: str
    ops: tuple[OpSpec, ...]
    tensors: tuple[TensorSpec, ...]
    ties: tuple[tuple[str, ...], ...]
    """Names of one and the same parameter, for each that has several. The config does not tell: where a checkpoint
    has two values for what it says is tied, transformers ties nothing."""
    quantized: str = ""
    """`int8` or `nf4`, where the linears are held so; empty, and left out of messages, where not."""
