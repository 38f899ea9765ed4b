"""How large a message, and what is in it, may be: a peer that goes beyond is refused."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = [
    "MAX_OBSTACLE",
    "MAX_REPLY_BYTES",
    "MAX_REQUEST_BYTES",
    "TENSOR_PART_BYTES",
    "BootId",
    "ModelName",
    "Name",
]

MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 64 << 20
MAX_OBSTACLE = 512
"""Characters of a side's reason not to use a transport."""
TENSOR_PART_BYTES = 4 << 20
"""A tensor is fetched in parts of at most this size."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
ModelName = Annotated[str, Meta(max_length=256)]
BootId = Annotated[str, Meta(max_length=64)]
"""Of a kernel, and where it matters of what runs on it: a process, or a pid namespace.

A larger limit is another protocol: who keeps the smaller one refuses what goes beyond.
"""
