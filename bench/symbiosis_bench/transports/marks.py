"""A payload that is another one in every call, and an answer that could be no other call's.

The first and the last word carry the number of the call; of a product only the first number does, because words
that are no floats would spoil it. Looked at outside of the time that is measured.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np

from symbiosis_bench.transports.settings import ROW_BYTES
from symbiosis_bench.transports.work import LINEAR, Asked, stamped, weight

__all__ = ["Marks", "payload_of"]

_WORD: Final = struct.Struct("<Q")
_FLOAT: Final = struct.Struct("<f")
_SEQUENCE: Final = 1000
"""Floats tell so many calls apart."""
_TOLERANCE: Final = 1e-2


def payload_of(size_bytes: int, seed: int) -> memoryview:
    """Returns floats that are a client's own."""
    floats = np.random.default_rng(seed).standard_normal(-(-size_bytes // 4), dtype=np.float32)
    return memoryview(bytearray(floats.tobytes()))[:size_bytes]


class Marks:
    """The marks of one series of calls with one payload."""

    def __init__(self, ask: Asked, payload: memoryview) -> None:
        self._linear = ask.op == LINEAR
        self._payload = payload
        self._last = len(payload) - _WORD.size
        self._slope: Any = 0.0
        self._rest: Any = 0.0
        if self._linear:
            row = np.frombuffer(payload, np.float32, count=ROW_BYTES // 4)
            self._slope = weight()[0, 0]
            self._rest = row[1:] @ weight()[0, 1:]

    def put(self, call: int) -> None:
        """Marks the payload as that call's."""
        if self._linear:
            _FLOAT.pack_into(self._payload, 0, call % _SEQUENCE)
            return
        _WORD.pack_into(self._payload, 0, call)
        _WORD.pack_into(self._payload, self._last, stamped(call << 1))

    def found(self, call: int, answer: memoryview) -> bool:
        """Says whether the answer is that call's."""
        if self._linear:
            (got,) = _FLOAT.unpack_from(answer, 0)
            right = self._rest + (call % _SEQUENCE) * self._slope
            return bool(abs(got - right) <= _TOLERANCE * max(1.0, abs(right)))
        words = _WORD.unpack_from(answer, 0) + _WORD.unpack_from(answer, self._last)
        return words == (stamped(call), call << 1)
