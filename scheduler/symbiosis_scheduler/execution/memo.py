"""What is kept of forwards for their backwards: values that cost a matrix product, within a budget.

A memo changes no result. It is used once, and lost when the budget is needed for newer ones, when its client
leaves, or with the daemon; the backward then computes again what it lacks. Threads may share it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from symbiosis_core.ids import ClientId, OpId

__all__ = ["Memo", "MemoKey"]

MemoKey = tuple[ClientId, OpId, int]
"""Whose, of which segment, under which number of the client."""


class _Kept:
    """Values of one request, as far as its chunks have come: they come in order."""

    __slots__ = ("filled", "nbytes", "rows", "values")

    def __init__(self, rows: int, values: Mapping[int, Tensor], nbytes: int) -> None:
        self.rows = rows
        self.values = values
        self.nbytes = nbytes
        self.filled = 0
        """Rows that are kept; the others are not there yet."""


class Memo:
    """All memos, oldest first."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes: Final = budget_bytes
        self._kept: OrderedDict[MemoKey, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        """Bytes that are held now."""
        self.hits = 0
        self.misses = 0
        """Backwards that found nothing."""

    def __repr__(self) -> str:
        return f"<Memo {len(self._kept)} kept, {self.bytes} of {self.budget_bytes} bytes>"

    def keep(self, key: MemoKey, rows: int, start: int, values: Mapping[int, Tensor], *, whole: bool) -> None:
        """Keeps values of the rows from `start` on, of a request of `rows` rows.

        The first chunk starts at 0, and the others follow in order. Where one was lost, nothing is kept.
        `whole` says that the tensors hold nothing else, so that they may be kept themselves.
        """
        with self._lock:
            if start == 0:
                self._drop(key)
                found = self._make_room(key, rows, values, whole=whole)
            else:
                found = self._kept.get(key)
            if found is None or found.rows != rows or found.filled != start:
                self._drop(key)  # what came before is lost, so that the whole is of no use
                return
            found.filled += len(next(iter(values.values())))
        for value, tensor in values.items():
            mine = found.values[value]
            if mine is not tensor:
                mine[start : start + tensor.shape[0]].copy_(tensor)

    def _make_room(self, key: MemoKey, rows: int, values: Mapping[int, Tensor], *, whole: bool) -> _Kept | None:
        nbytes = sum([rows * tensor.shape[1] * tensor.element_size() for tensor in values.values()])
        if nbytes > self.budget_bytes:
            return None
        while self.bytes + nbytes > self.budget_bytes:
            self._drop(next(iter(self._kept)))
        itself = whole and all(tensor.shape[0] == rows and tensor.is_contiguous() for tensor in values.values())
        places = (
            values
            if itself
            else {
                value: torch.empty(rows, tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
                for value, tensor in values.items()
            }
        )
        self._kept[key] = kept = _Kept(rows, places, nbytes)
        self.bytes += nbytes
        return kept

    def find(self, key: MemoKey, rows: int, *, last: bool) -> Mapping[int, Tensor] | None:
        """Returns what was kept of a forward of that many rows; None if it is lost. `last`: and forgets it."""
        with self._lock:
            found = self._kept.get(key)
            if found is None or found.rows != rows or found.filled != rows:
                self.misses += 1
                return None
            self.hits += 1
            if last:
                self._drop(key)
            return found.values

    def forget(self, client: ClientId) -> None:
        """Forgets everything of a client."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == client]:
                self._drop(key)

    def _drop(self, key: MemoKey) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.bytes -= found.nbytes
