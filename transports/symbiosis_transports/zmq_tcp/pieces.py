"""A slot's rows in messages of bounded size: all but the last piece go ahead, the last one with the header.

So neither side ever holds more of a message than one piece, and copies while the next one travels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["PIECE_BYTES", "bounds", "cut"]

PIECE_BYTES: Final = 1 << 20


def bounds(offset: int, wanted: int, slot_bytes: int) -> tuple[int, int] | None:
    """Returns where rows begin and end; no bytes wanted: all up to the slot's end. None: they leave the slot."""
    end = offset + wanted if wanted else slot_bytes
    return (offset, end) if 0 <= offset <= end <= slot_bytes else None


def cut(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields where pieces begin and end, at least one of them."""
    yield from ((at, min(at + PIECE_BYTES, end)) for at in range(begin, max(end, begin + 1), PIECE_BYTES))
