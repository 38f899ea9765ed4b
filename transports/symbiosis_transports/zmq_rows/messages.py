"""What is said over ZeroMQ for rows: the handshake in msgpack, and then headers of a fixed form.

client  Open(version, token) --------------------------------->  daemon
        <--------- Opened(slots, slot_bytes, memory) or Refused, and the end
        ASK slot generation at call [, rows] ------------------>
        <--------- ANSWER slot generation code at [, rows]
either  PIECE slot generation at, rows: what does not fit into one message, sent ahead of it
        <--------- Goodbye(reason, breach), and the end
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.ids import OpId, Token
from symbiosis_core.specs import Direction
from symbiosis_core.wire import Refused
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.handshake import SlotBytes, SlotCount
from symbiosis_transports.ports import Call

__all__ = [
    "ANSWER",
    "ASK",
    "HEADER_BYTES",
    "PIECE",
    "VERSION",
    "Head",
    "Open",
    "Opened",
    "decode_from_daemon",
    "decode_open",
    "encode",
    "pack_call",
    "pack_head",
    "unpack_call",
    "unpack_head",
]

VERSION: Final = 1
ASK, ANSWER, PIECE = 1, 2, 3
"""Kinds of headers. The first byte of no handshake message is one of them: msgpack's maps begin at 0x80."""
_HEAD: Final = struct.Struct("<IIQQQ")  # kind, slot, generation, code, at
_CALL: Final = struct.Struct("<IIIIQQQQ")  # op, direction, rows, memo, in_offset, out_offset, in_bytes, out_bytes
HEADER_BYTES: Final = _HEAD.size + _CALL.size
"""Of the longest header."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """The client shows its token."""

    version: int
    token: Token


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The daemon lends slots."""

    version: int
    slots: SlotCount
    slot_bytes: SlotBytes
    memory: str = ""
    """Where the client finds the memory of the slots; empty: it has its own, and rows travel."""


class Head(NamedTuple):
    """The beginning of every header."""

    kind: int
    slot: int
    generation: int
    code: int
    """Of an answer; 0 is success."""
    at: int
    """The byte in the slot where the rows in the message begin."""


_encoder = msgspec.msgpack.Encoder()
_open_decoder = msgspec.msgpack.Decoder(Open)
_from_daemon: msgspec.msgpack.Decoder[Opened | Goodbye | Refused] = msgspec.msgpack.Decoder(
    Opened | Goodbye | Refused
)


def encode(message: Open | Opened | Goodbye | Refused) -> bytes:
    """Returns the frame of a handshake message."""
    return _encoder.encode(message)


def decode_open(frame: memoryview) -> Open:
    """Returns the client's opening.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _open_decoder.decode(frame)


def decode_from_daemon(frame: memoryview) -> Opened | Goodbye | Refused:
    """Returns what the daemon said that has no header.

    Raises:
        msgspec.MsgspecError: nothing that can be understood.
    """
    return _from_daemon.decode(frame)


def pack_head(kind: int, slot: int, generation: int, *, code: int = 0, at: int = 0) -> bytes:
    """Returns a header, of an ASK its beginning."""
    return _HEAD.pack(kind, slot, generation, code, at)


def unpack_head(frame: memoryview) -> Head | None:
    """Returns the beginning of a header; None: the frame has none."""
    if len(frame) < _HEAD.size or frame[0] not in (ASK, ANSWER, PIECE):
        return None
    return Head(*_HEAD.unpack_from(frame))


def pack_call(call: Call) -> bytes:
    """Returns what follows the beginning of an ASK."""
    return _CALL.pack(*(int(value) for value in _in_order(call)))


def unpack_call(frame: memoryview) -> Call:
    """Returns the call of an ASK, of which nothing is checked but the direction.

    Raises:
        RemoteProtocolError: the frame has not the length of an ASK, or there is no such direction.
    """
    if len(frame) != HEADER_BYTES:
        raise RemoteProtocolError(f"a call has {HEADER_BYTES} bytes, not {len(frame)}")
    op, direction, rows, memo, in_offset, out_offset, in_bytes, out_bytes = _CALL.unpack_from(frame, _HEAD.size)
    if direction > 1:
        raise RemoteProtocolError(f"direction {direction} in a call; 0 is forward and 1 backward")
    return Call(OpId(op), Direction(direction), rows, in_offset, out_offset, memo, in_bytes, out_bytes)


def _in_order(call: Call) -> tuple[int, ...]:
    op, direction, rows, in_offset, out_offset, memo, in_bytes, out_bytes, _ = call  # clocks of two hosts differ
    return op, direction, rows, memo, in_offset, out_offset, in_bytes, out_bytes
