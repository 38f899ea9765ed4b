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

A way is a direction's number, or `SLOPES`: a forward that keeps slopes for its backward, of an op where that costs
something, so that it has a curve of its own (`costs`). In version 4 there are directions only.

Times are microseconds since the recording began. No tensor, token id, adapter or key is ever in a trace; names of
clients and of their users are.

Before every record stands its length: a byte, or 255 and then four bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from symbiosis_core.errors import UsageError
from symbiosis_core.specs import Direction

__all__ = ["SLOPES", "VERSION", "Kind", "direction_of", "encode", "read_trace", "records"]

VERSION: Final = 5
_VERSIONS: Final = range(4, VERSION + 1)
"""Those that can be read."""
SLOPES: Final = len(Direction)
"""The way of a forward that keeps slopes."""
_MOST_BYTES: Final = 1 << 30
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
}
"""Types; and of ints their range."""
_encoder: Final = msgspec.msgpack.Encoder()


class _OtherVersionError(ValueError):
    """A trace whose fields are not those of this version."""


def encode(kind: Kind, *fields: int | str | bool) -> bytes:
    """Returns one record, behind its length: msgspec does not say where a value ends."""
    body = _encoder.encode((kind, *fields))
    if len(body) < _LONG:
        return len(body).to_bytes(1, "little") + body
    return _LONG.to_bytes(1, "little") + len(body).to_bytes(4, "little") + body


def direction_of(way: int) -> tuple[Direction, bool]:
    """Returns a way's direction, and whether slopes are kept."""
    return (Direction.FORWARD, True) if way == SLOPES else (Direction(way), False)


def records(data: bytes) -> Iterator[tuple[Any, ...]]:
    """Yields every record of a trace; a torn one at its end is left out.

    Raises:
        ValueError: it is no trace.
    """
    decoder = msgspec.msgpack.Decoder(tuple[Any, ...])
    at, view = 0, memoryview(data)
    while at < len(data):
        begins = at + (1 if data[at] < _LONG else 5)
        stop = begins + (data[at] if data[at] < _LONG else int.from_bytes(view[at + 1 : begins], "little"))
        if stop > len(data):
            return
        record = decoder.decode(view[begins:stop])
        match record:
            case (Kind.HEADER, int(version), *_) if version not in _VERSIONS:
                raise _OtherVersionError(f"is a trace of version {version}")  # before its fields, which differ
        fields = _FIELDS[record[0]]
        if len(record) != len(fields) + 1 or not all(map(_fits, record[1:], fields)):
            raise ValueError(f"a record {record!r}")
        yield record
        at = stop


def _fits(value: object, field: type | range) -> bool:
    if isinstance(field, range):
        return isinstance(value, int) and value in field
    return isinstance(value, field)


def read_trace(path: Path) -> list[tuple[Any, ...]]:
    """Returns the records of a file.

    Raises:
        UsageError: it cannot be read, or is no trace.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MB; record for a shorter time")
        found = list(records(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except _OtherVersionError as error:
        raise UsageError(
            f"{path} {error}, and {_VERSIONS[0]} to {VERSION} are read; record again with `symbiosis trace record`"
        ) from error
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no trace: {error}") from error
    if not found or found[0][0] != Kind.HEADER:
        raise UsageError(f"{path} is no trace; `symbiosis trace record` makes one")
    return found
