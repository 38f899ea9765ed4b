"""Messages as bytes. A control message is two frames: a header (magic and protocol version) and a msgpack body.

The header never changes its form, so a peer of any version can be told that its version is wrong.
"""

from __future__ import annotations

import struct

import msgspec

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.wire.limits import MAX_REPLY_BYTES, MAX_REQUEST_BYTES
from symbiosis_core.wire.messages import Reply, Request

__all__ = ["VERSION", "decode_reply", "decode_request", "encode", "header"]

VERSION = 3
"""Raised whenever a message changes in a way that an older peer would misread."""

_HEADER = struct.Struct("<4sHH")
_MAGIC = b"SYMB"
_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises at foreign bytes: bad UTF-8 and deep nesting come as Python's own errors (0.22)."""


def header(version: int = VERSION) -> bytes:
    """Returns the first frame of every control message."""
    return _HEADER.pack(_MAGIC, version, 0)


def encode(message: Request | Reply) -> list[bytes]:
    """Returns the two frames of a control message."""
    return [header(), _encoder.encode(message)]


def decode_request(frames: list[bytes]) -> Request:
    """Returns the request in `frames`.

    Raises:
        RefusedError: the client's fault; the daemon answers it as `Refused` and lives on.
    """
    version = _version(frames)
    if version != VERSION:
        raise RefusedError(
            RefusalCode.VERSION,
            f"the client speaks protocol version {version}, the daemon {VERSION}",
            "install the same release of symbiosis-llm on both sides",
        )
    body = _body(frames)
    if len(body) > MAX_REQUEST_BYTES:
        raise RefusedError(
            RefusalCode.TOO_LARGE, f"a request of {len(body)} bytes; at most {MAX_REQUEST_BYTES} are taken"
        )
    try:
        return _request_decoder.decode(body)
    except _UNDECODABLE as error:
        raise RefusedError(RefusalCode.MALFORMED, f"not a request: {_brief(error)}") from None


def decode_reply(frames: list[bytes]) -> Reply:
    """Returns the reply in `frames`.

    Raises:
        RemoteProtocolError: the daemon's fault.
    """
    try:
        version = _version(frames)
        if version != VERSION:
            raise RemoteProtocolError(
                f"the daemon speaks protocol version {version}, this client {VERSION}; "
                "install the same release of symbiosis-llm on both sides"
            )
        body = _body(frames)
        if len(body) > MAX_REPLY_BYTES:
            raise RemoteProtocolError(
                f"the daemon's answer has {len(body)} bytes; at most {MAX_REPLY_BYTES} are taken"
            )
        return _reply_decoder.decode(body)
    except RefusedError as error:
        raise RemoteProtocolError(f"the daemon's answer is not a reply: {error.reason}") from None
    except _UNDECODABLE as error:
        raise RemoteProtocolError(f"the daemon's answer is not a reply: {_brief(error)}") from None


def _version(frames: list[bytes]) -> int:
    """Returns the peer's version. It is read before anything else is demanded: all but the header may change."""
    if not frames or len(frames[0]) != _HEADER.size:
        raise RefusedError(RefusalCode.MALFORMED, f"the message does not start with {_HEADER.size} header bytes")
    magic, version, _ = _HEADER.unpack(frames[0])
    if magic != _MAGIC:
        raise RefusedError(RefusalCode.MALFORMED, "the message does not start with the magic bytes SYMB")
    return int(version)


def _body(frames: list[bytes]) -> bytes:
    if len(frames) != 2:
        raise RefusedError(RefusalCode.MALFORMED, f"a control message has 2 frames, not {len(frames)}")
    return frames[1]


def _brief(error: Exception) -> str:
    """Returns the error's text cut short: it may quote the peer, who may have sent any amount."""
    text = str(error)
    return text if len(text) <= 200 else f"{text[:197]}..."
