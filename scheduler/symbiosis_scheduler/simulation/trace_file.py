"""Reads a trace, and tells what of it is whole.

A piece counts when its checksum has come and is right. A trace that does not end with the last checksum of its
recording is torn: it was copied in part, the disk was full, or daemon or recorder were killed. One whose bytes are
not those that were written is garbled, and what comes after them may be anything. Both are refused: figures of a
part are not those of the whole. Who wants them all the same asks for what is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from symbiosis_core.errors import UsageError
from symbiosis_scheduler.simulation.trace import VERSION, VERSIONS, Kind, Sum, fits, length

__all__ = ["read_trace", "records"]

Record = tuple[Any, ...]
_MOST_BYTES: Final = 1 << 30
_UNCHECKED: Final = 4
"""The last version without checksums."""
_TIMELESS: Final = (Kind.HEADER, Kind.OP)


class _Reader:
    """Goes through the bytes of a trace as far as they are in order."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._decoder = msgspec.msgpack.Decoder(tuple[Any, ...])
        self._checked = True
        self._sum = Sum()
        self._summed = 0
        self._ended = False
        self.found: list[Record] = []
        """All records but checksums."""
        self.whole = self.whole_bytes = 0
        """How many of them are whole, and in how many bytes."""
        self.wrong = self._read()
        """What is not in order, if anything; in words."""

    def _read(self) -> str:
        at, data = 0, self._data
        while at < len(data):
            begins, stop = length(data, at)
            if stop > len(data):
                return f"it ends in the middle of a record, at byte {len(data)}"
            if self._ended:
                return f"more follows after its end, at byte {at}"
            try:
                record = self._decoder.decode(data[begins:stop])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return f"at byte {at} is no record"
            if wrong := self._note(record, at, stop):
                return wrong
            at = stop
        return "" if self._ended or not self._checked else "it ends before its recording did"

    def _note(self, record: Record, at: int, stop: int) -> str:
        """Takes a record in; or says what is wrong with it."""
        if not self.found:
            match record:
                case (Kind.HEADER, int(version), *_) if version not in VERSIONS:
                    raise _OtherVersionError(version)  # before its fields, which differ
                case (Kind.HEADER, int(version), *_):
                    self._checked = version > _UNCHECKED
                case _:
                    return "it does not begin as one"
        is_check = bool(record) and record[0] == Kind.CHECK
        if not record or not fits(record) or (is_check and not self._checked):
            return f"at byte {at} is a record {record!r}"
        if is_check:
            self._sum.add(self._data[self._summed : at])
            self._summed = at
            if record[1] != self._sum.now:
                return f"bytes {self.whole_bytes} to {at} are not those that were written"
            self._ended = record[2]
        else:
            self.found.append(record)
        if is_check or not self._checked:
            self.whole, self.whole_bytes = len(self.found), stop
        return ""


class _OtherVersionError(Exception):
    """A trace of a version that is not read."""


def records(data: bytes) -> list[Record]:
    """Returns all records of a trace but its checksums.

    Raises:
        ValueError: it is no trace, or not whole.
    """
    reader = _Reader(data)
    if reader.wrong or not reader.found:
        raise ValueError(reader.wrong or "it is empty")
    return reader.found


def read_trace(path: Path, *, torn: bool = False) -> list[Record]:
    """Returns the records of a file; `torn`: those that are whole, where not all are.

    Raises:
        UsageError: it cannot be read, is no trace, or is not whole.
    """
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise UsageError(f"{path} is no file; `symbiosis trace record` makes one")
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MB; record for a shorter time")
        data = path.read_bytes()
        reader = _Reader(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except _OtherVersionError as error:
        raise UsageError(
            f"{path} is a trace of version {error}, and {VERSIONS[0]} to {VERSION} are read; "
            "record again with `symbiosis trace record`"
        ) from error
    whole = reader.found[: reader.whole]
    if not reader.found:
        raise UsageError(f"{path} is no trace; `symbiosis trace record` makes one")
    if reader.wrong and not (torn and whole):
        raise UsageError(f"{path} is not whole: {reader.wrong}. {_left(whole, reader.whole_bytes, len(data))}")
    return whole


def _left(whole: list[Record], whole_bytes: int, data_bytes: int) -> str:
    """Returns what is left of a trace, and what can be done with it."""
    if not whole:
        return "Nothing of it is left; record again with `symbiosis trace record`"
    last_us = max([record[1] for record in whole if record[0] not in _TIMELESS], default=0)
    return (
        f"What is left are its first {whole_bytes:,} of {data_bytes:,} bytes: {len(whole):,} records, of "
        f"{last_us / 1e6:.3g} s. Play these with --torn, or record again with `symbiosis trace record`"
    )
