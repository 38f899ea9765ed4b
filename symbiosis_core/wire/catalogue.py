"""What a client learns of a base, and teaches it: the catalogue, small tensors, segments."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from symbiosis_core.segments import Segment
from symbiosis_core.specs import ModelSpec
from symbiosis_core.wire.limits import ModelName

__all__ = ["Describe", "Fetch", "Learn", "Learned", "ModelReply", "TensorPart"]


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Asks for the catalogue of a model."""

    model: ModelName = ""


class ModelReply(msgspec.Struct, frozen=True, tag="model"):
    """The catalogue of a model."""

    spec: ModelSpec


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Asks for bytes of one small tensor, from `offset` on."""

    model: ModelName
    tensor: Annotated[str, Meta(max_length=512)]
    offset: Annotated[int, Meta(ge=0)] = 0


class TensorPart(msgspec.Struct, frozen=True, tag="tensor"):
    """At most `TENSOR_PART_BYTES` of a tensor, little endian, C order."""

    offset: int
    total_bytes: int
    data: bytes


class Learn(msgspec.Struct, frozen=True, tag="learn"):
    """Teaches the daemon a segment. Segments are known by content: who teaches one again gets the same number."""

    model: ModelName
    segment: Segment


class Learned(msgspec.Struct, frozen=True, tag="learned"):
    """The number by which calls name the segment, until the daemon ends."""

    op: int
