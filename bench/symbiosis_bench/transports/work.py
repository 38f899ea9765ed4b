"""What the daemon's end does with rows, and how a client sees that it was done to them and to no others.

STAMP   changes the first and the last word: next to no work, and still no answer can be mistaken for the payload
BURN    the same, and keeps the processor busy for some microseconds a batch
LINEAR  multiplies rows of 576 float32 by one matrix, all rows of a batch together
INVERT  turns every bit around: for verification, before and after each series
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from symbiosis_bench.transports.settings import ROW_BYTES
from symbiosis_core.ids import OpId

__all__ = [
    "BURN",
    "INVERT",
    "LINEAR",
    "STAMP",
    "Asked",
    "Wanted",
    "Work",
    "asked",
    "carry_out",
    "expected",
    "prepare_products",
    "stamped",
]

STAMP, BURN, LINEAR, INVERT = OpId(0), OpId(1), OpId(2), OpId(3)
_WORD: Final = struct.Struct("<Q")
_MASK: Final = (1 << 64) - 1
_WIDTH: Final = ROW_BYTES // 4
_TOLERANCE: Final = 1e-3
_TURNED: Final = bytes(255 - byte for byte in range(256))


class Asked(NamedTuple):
    """What is to be done, apart from the payload."""

    op: OpId
    burn_us: int = 0


Wanted = tuple[OpId, int, memoryview, memoryview]
"""What is asked (op and microseconds), rows in, rows out. In and out may be the same memory."""


def asked(compute: str) -> Asked:
    """Returns what a series of that kind asks for."""
    if compute == "linear":
        return Asked(LINEAR)
    return Asked(BURN, int(compute)) if int(compute) else Asked(STAMP)


def stamped(word: int) -> int:
    """Returns what becomes of a word."""
    return word ^ _MASK


def expected(op: OpId, payload: bytes, answer: bytes) -> bool:
    """Says whether `answer` is what `op` makes of the whole payload."""
    if op == INVERT:
        return answer == payload.translate(_TURNED)
    assert op == LINEAR  # nothing else is looked at as a whole
    given, got = _rows(np.frombuffer(payload, np.float32)), _rows(np.frombuffer(answer, np.float32))
    return bool(np.allclose(given @ weight().T, got, rtol=_TOLERANCE, atol=_TOLERANCE))


@cache
def weight() -> Any:
    """The matrix, (576, 576), the same in every process."""
    return np.random.default_rng(7).standard_normal((_WIDTH, _WIDTH), dtype=np.float32) / _WIDTH**0.5


def prepare_products() -> None:
    """Imports what a product takes, so that no batch has to."""
    _torch_weight()


def carry_out(wanted: Sequence[Wanted]) -> None:
    """Does one batch."""
    parts: dict[OpId, list[tuple[memoryview, memoryview]]] = {}
    longest_us = 0
    for op, burn_us, given, out in wanted:
        parts.setdefault(op, []).append((given, out))
        if burn_us > longest_us:
            longest_us = burn_us
    begin = time.perf_counter_ns() if longest_us else 0
    for op, part in parts.items():
        _DO[op](part)
    if longest_us:
        end = begin + longest_us * 1000
        while time.perf_counter_ns() < end:
            pass


class Work:
    """The daemon's end of it, with its clock."""

    def __init__(self) -> None:
        self.requests = self.batches = self.busy_ns = 0

    def __call__(self, wanted: Sequence[Wanted]) -> None:
        """Carries out one batch, and counts it."""
        begin = time.perf_counter_ns()
        carry_out(wanted)
        self.requests += len(wanted)
        self.batches += 1
        self.busy_ns += time.perf_counter_ns() - begin


Part = Sequence[tuple[memoryview, memoryview]]


def _stamp(part: Part) -> None:
    for given, out in part:
        last = len(out) - _WORD.size
        (head,), (tail,) = _WORD.unpack_from(given, 0), _WORD.unpack_from(given, last)
        _WORD.pack_into(out, 0, stamped(head))
        _WORD.pack_into(out, last, stamped(tail))


def _invert(part: Part) -> None:
    for given, out in part:
        out[:] = bytes(given).translate(_TURNED)


def _linear(part: Part) -> None:
    torch = _torch()
    rows = [_view(given) for given, _ in part]
    outs = [_view(out) for _, out in part]
    if len(rows) == 1:
        torch.mm(rows[0], _torch_weight(), out=outs[0])
        return
    together = torch.mm(torch.cat(rows), _torch_weight())
    torch._foreach_copy_(outs, list(together.split([len(one) for one in rows])))


@cache
def _torch() -> Any:
    import torch  # only where it is asked for: it takes two seconds

    torch.set_num_threads(1)
    return torch


@cache
def _torch_weight() -> Any:
    return _torch().from_numpy(weight().T.copy())


def _view(memory: memoryview) -> Any:
    """Returns the whole rows in `memory`; what is left over at its end stays as it is."""
    rows = len(memory) // ROW_BYTES
    return _torch().frombuffer(memory, dtype=_torch().float32, count=rows * _WIDTH).view(rows, _WIDTH)


def _rows(flat: Any) -> Any:
    return flat[: len(flat) // _WIDTH * _WIDTH].reshape(-1, _WIDTH)


_DO: Final[dict[OpId, Callable[[Part], None]]] = {
    STAMP: _stamp,
    BURN: _stamp,
    LINEAR: _linear,
    INVERT: _invert,
}
