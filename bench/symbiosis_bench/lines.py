"""How a process of ours tells its parent something: one JSON object a line on standard output, a typed message.

Standard output belongs to these messages alone: `Reporter` takes it away from the libraries, whose prints then go
to standard error, which the parent keeps in a log.
"""

from __future__ import annotations

import os
from typing import Any, Final, Generic, TypeVar

import msgspec

__all__ = ["Reader", "Reporter", "Unreadable"]

_LINE_SHOWN: Final = 200
M = TypeVar("M")


class Unreadable(msgspec.Struct, frozen=True):
    """A line that is no message: a bug in the process that wrote it."""

    line: str


class Reader(Generic[M]):
    """Makes messages of lines. `messages` is a union of tagged Structs."""

    def __init__(self, messages: Any) -> None:
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(messages)

    def __call__(self, line: bytes) -> M | Unreadable:
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Unreadable(line.decode(errors="replace").strip()[:_LINE_SHOWN])


class Reporter:
    """The end of the process that tells. Make it before any library has a chance to print."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def tell(self, message: msgspec.Struct) -> None:
        """Writes one line; at once, so that the parent sees it live."""
        self.pass_on(msgspec.json.encode(message))

    def pass_on(self, line: bytes) -> None:
        """Writes what another process has encoded."""
        self._file.write(line + b"\n")
