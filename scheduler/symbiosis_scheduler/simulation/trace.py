"""The form of a trace: a stream of msgpack arrays, small because nearly every field is an integer.

    [HEADER, version, model, beside, in flight]         first. Whether lanes below the first were computed beside
                                                        it, as on a CPU, where it is not turned off; and how many
                                                        plans were started and not done, at most: with one, who
                                                        computes a plan sees nothing until it is done
    [OP, op, begins a forward]                          before the first request for it
    [JOIN, us, client, lane, user, name]                the lane is the one that it was put into
    [LEAVE, us, client]
    [ASK, us, client, slot, op, way, rows, late us]
                                                        a request was found, so long after the client had
                                                        published it; 0 where that is not known
    [ANSWER, us, client, slot, refused]                 it was answered, or refused
    [BATCH, us, op, way, rows, took us, clients, lag us, lead]
                                                        a batch was done, for the sake of that client. It began
                                                        so long after a look: what a busy machine takes before a
                                                        decision is carried out
    [BESIDE, ...]                                       the same of one that was computed beside: it had been
                                                        computed some time before that was seen
    [LOOK, us]                                          the daemon looked for the first time after a batch, and
                                                        found the requests before this that came after the batch
    [CHECK, checksum, last]                             the CRC-32 of all bytes before this record, at the end of
                                                        every piece that was fetched; whether the recording ended

A way is a direction's number, or `SLOPES`: a forward that keeps slopes for its backward, of an op where that costs
something, so that it has a curve of its own (`costs`). Version 4 has directions only, and no checksums.

Times are microseconds since the recording began. No tensor, token id, adapter or key is ever in a trace; names of
clients and of their users are.

Before every record stands its length: a byte, or 255 and then four bytes. `trace_file` reads it.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Any, Final

import msgspec

from symbiosis_core.specs import Direction

__all__ = ["SLOPES", "VERSION", "VERSIONS", "Kind", "Sum", "direction_of", "encode", "fits", "length"]

VERSION: Final = 5
VERSIONS: Final = range(4, VERSION + 1)
"""Those that can be read."""
SLOPES: Final = len(Direction)
"""The way of a forward that keeps slopes."""
_LONG: Final = 255


class Kind(IntEnum):
    """What a record tells."""

    HEADER = 0
    OP = 1
    JOIN = 2
    LEAVE = 3
    ASK = 4
    ANSWER = 5
    BATCH = 6
    BESIDE = 7
    LOOK = 8
    CHECK = 9


_INT: Final = range(-(1 << 53), 1 << 53)
_OP: Final = range(1 << 21)
"""More than a daemon can have: whoever plays a trace makes them all."""
_WAY: Final = range(SLOPES + 1)
_ROWS: Final = range(1 << 40)
_IN_FLIGHT: Final = range(1, 1 << 16)
_FIELDS: Final[dict[int, tuple[type | range, ...]]] = {
    Kind.HEADER: (_INT, str, bool, _IN_FLIGHT),
    Kind.OP: (_OP, bool),
    Kind.JOIN: (_INT, _INT, str, str, str),
    Kind.LEAVE: (_INT, _INT),
    Kind.ASK: (_INT, _INT, _INT, _OP, _WAY, _ROWS, _INT),
    Kind.ANSWER: (_INT, _INT, _INT, bool),
    Kind.BATCH: (_INT, _OP, _WAY, _ROWS, _INT, _INT, _INT, _INT),
    Kind.BESIDE: (_INT, _OP, _WAY, _ROWS, _INT, _INT, _INT, _INT),
    Kind.LOOK: (_INT,),
    Kind.CHECK: (range(1 << 32), bool),
}
"""Types; and of ints their range."""
_encoder: Final = msgspec.msgpack.Encoder()


def encode(kind: Kind, *fields: int | str | bool) -> bytes:
    """Returns one record, behind its length: msgspec does not say where a value ends."""
    body = _encoder.encode((kind, *fields))
    if len(body) < _LONG:
        return len(body).to_bytes(1, "little") + body
    return _LONG.to_bytes(1, "little") + len(body).to_bytes(4, "little") + body


def length(data: memoryview, at: int) -> tuple[int, int]:
    """Returns where a record's body begins and stops whose length stands at `at`; the data may end before."""
    if data[at] < _LONG:
        return at + 1, at + 1 + data[at]
    return at + 5, at + 5 + int.from_bytes(data[at + 1 : at + 5], "little")


class Sum:
    """The checksum of a trace, as it grows."""

    def __init__(self) -> None:
        self.now = 0

    def __repr__(self) -> str:
        return f"<Sum {self.now:08x}>"

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """The trace goes on with that."""
        self.now = zlib.crc32(data, self.now)

    def seal(self, data: bytes | bytearray, *, last: bool) -> bytes:
        """Returns the next piece of the trace, with its checksum behind it."""
        self.add(data)
        check = encode(Kind.CHECK, self.now, last)
        self.add(check)
        return bytes(data) + check


def direction_of(way: int) -> tuple[Direction, bool]:
    """Returns a way's direction, and whether slopes are kept."""
    return (Direction.FORWARD, True) if way == SLOPES else (Direction(way), False)


def fits(record: tuple[Any, ...]) -> bool:
    """Whether a record has the fields of its kind, each in its range."""
    fields = _FIELDS.get(record[0]) if isinstance(record[0], int) else None
    return fields is not None and len(record) == len(fields) + 1 and all(map(_fits, record[1:], fields))


def _fits(value: object, field: type | range) -> bool:
    if isinstance(field, range):
        return isinstance(value, int) and value in field
    return isinstance(value, field)
