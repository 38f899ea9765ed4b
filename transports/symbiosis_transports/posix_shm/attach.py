"""The handshake on the data socket, and the few words that are said on it later.

client  Attach(version, token) ------------------------------->  daemon
        <--------- Attached(slots, slot_bytes) + the arena's fd
        <--------- or Refused(code, reason, remedy), and the end
or      Collect(version, model) ------------------------------->
        <--------- Handed(version) + the sealed weights' fd, or Refused, and the end
later   one zero byte, either way: "look into the arena"
        <--------- Goodbye(reason, breach), and the end
"""

from __future__ import annotations

import msgspec

from symbiosis_core.ids import Token
from symbiosis_core.wire import Refused
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.handshake import SlotBytes, SlotCount

__all__ = [
    "DOORBELL",
    "MAX_DATAGRAM_BYTES",
    "VERSION",
    "Attach",
    "Attached",
    "Collect",
    "Handed",
    "Opening",
    "decode_from_daemon",
    "decode_opening",
    "encode",
]

VERSION = 1
"""Of the handshake and of the arena's layout."""
DOORBELL = b"\0"
MAX_DATAGRAM_BYTES = 4096


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    """The client shows its token."""

    version: int
    token: Token


class Collect(msgspec.Struct, frozen=True, tag="collect"):
    """The client asks for a base's weights themselves. The connection carries nothing else."""

    version: int
    model: str = ""


class Handed(msgspec.Struct, frozen=True, tag="handed"):
    """The daemon lends its weights; their descriptor travels with this message."""

    version: int


class Attached(msgspec.Struct, frozen=True, tag="attached"):
    """The daemon lends an arena; its descriptor travels with this message."""

    version: int
    slots: SlotCount
    slot_bytes: SlotBytes


_encoder = msgspec.msgpack.Encoder()
Opening = Attach | Collect
FromDaemon = Attached | Handed | Goodbye | Refused
_openings: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)
_from_daemon: msgspec.msgpack.Decoder[FromDaemon] = msgspec.msgpack.Decoder(FromDaemon)


def encode(message: Opening | FromDaemon) -> bytes:
    """Returns the datagram for `message`."""
    return _encoder.encode(message)


def decode_opening(datagram: bytes | memoryview) -> Opening:
    """Returns the client's opening.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _openings.decode(datagram)


def decode_from_daemon(datagram: bytes | memoryview) -> FromDaemon:
    """Returns what the daemon said.

    Raises:
        msgspec.MsgspecError: nothing that can be understood.
    """
    return _from_daemon.decode(datagram)
