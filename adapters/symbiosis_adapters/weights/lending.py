"""The daemon's weights, lent: mapped into this process, read where they lie, and shared with everybody else.

A mapping is private to this process. What is only read is the one copy that the daemon and all clients share; what
is written to becomes pages of this process's own, and neither the daemon nor anybody else ever sees it. A mapping
outlives its daemon: with one that came back the session makes sure that the base is the same one, and the weights
that were mapped before stay in memory until the last who mapped them has ended.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from symbiosis_adapters.connection.asking import borrow_from
from symbiosis_adapters.connection.session import Session
from symbiosis_adapters.weights.takes import Takes
from symbiosis_core.errors import RefusedError, RemoteProtocolError
from symbiosis_core.specs import LentTensor
from symbiosis_core.wire import Loan
from symbiosis_transports.posix_shm.collect import collect
from symbiosis_transports.sealed import check_sealed, map_private
from symbiosis_transports.tensors import torch_dtype

__all__ = ["BorrowedWeights", "Lender", "borrow"]

_COLLECT_TIMEOUT_S = 10.0


class BorrowedWeights:
    """The memory of a loan, and where each weight lies in it."""

    def __init__(self, fd: int, loan: Loan) -> None:
        """Takes the descriptor over, and trusts neither it nor the loan before it has looked.

        Raises:
            RemoteProtocolError: the memory is not sealed, or a weight does not lie within it.
        """
        weakref.finalize(self, os.close, fd)
        check_sealed(fd, loan.lent_bytes)
        for tensor in loan.tensors:
            if tensor.offset % tensor.dtype.itemsize or tensor.offset + tensor.nbytes > loan.lent_bytes:
                raise RemoteProtocolError(f"{tensor.name} does not lie within the memory that was lent")
        self._fd: Final = fd
        self._tensors: Final = {tensor.name: tensor for tensor in loan.tensors}
        self._whole: Final = mmap.mmap(fd, loan.lent_bytes, flags=mmap.MAP_PRIVATE)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def frozen(self, name: str) -> Tensor:
        """Returns the weight in the mapping that all callers share: for reading.

        Raises:
            RemoteProtocolError: the loan has no such weight.
        """
        tensor = self._find(name)
        return _view(self._whole, tensor.offset, tensor)

    def private(self, name: str) -> Tensor:
        """Returns the weight in a mapping that nobody else has: it may be written to. Raises as `frozen` does."""
        tensor = self._find(name)
        mapping, start = map_private(self._fd, tensor.offset, max(tensor.nbytes, 1))
        return _view(mapping, start, tensor)

    def _find(self, name: str) -> LentTensor:
        if name not in self._tensors:
            raise RemoteProtocolError(f"the daemon's loan does not contain {name}")
        return self._tensors[name]


class Lender:
    """Borrows the weights when the first is asked for. Implements `lenders.Lending`."""

    def __init__(self, borrow: Callable[[], BorrowedWeights]) -> None:
        self._borrow = borrow
        self._borrowed: BorrowedWeights | None = None
        self.withheld = False
        """See `Lending.withheld`."""
        self.takes = Takes()
        """See `Lending.takes`."""

    def frozen(self, name: str) -> Tensor:
        """See `Lending.frozen`."""
        return self.weights().frozen(name)

    def private(self, name: str) -> Tensor:
        """See `Lending.private`."""
        return self.weights().private(name)

    def weights(self) -> BorrowedWeights:
        """Returns the loan, which is asked for once.

        Raises:
            RefusedError: the daemon does not lend its weights.
            DaemonGoneError: it is not there.
        """
        if self._borrowed is None:
            self.withheld = False
            try:
                self._borrowed = self._borrow()
            except RefusedError:
                self.withheld = True
                raise
        return self._borrowed


def borrow(session: Session) -> BorrowedWeights:
    """Borrows the weights of a session's base. Raises as `Lender.weights` does."""
    loan = borrow_from(session.address, session.spec.name)
    if loan.fingerprint != session.spec.fingerprint:
        raise RemoteProtocolError(
            f"the daemon at {session.address} lends another base ({loan.fingerprint[:12]}) than this model was "
            f"built for ({session.spec.fingerprint[:12]})"
        )
    return BorrowedWeights(collect(loan.endpoint, session.spec.name, _COLLECT_TIMEOUT_S), loan)


def _view(mapping: mmap.mmap, start: int, tensor: LentTensor) -> Tensor:
    dtype = torch_dtype(tensor.dtype)
    if not tensor.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    count = torch.Size(tensor.shape).numel()
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=start).view(*tensor.shape)
