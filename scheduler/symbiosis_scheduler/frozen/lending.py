"""Weights in memory that can be lent: clients of this host map the very pages that the daemon computes with.

Tensor by tensor the weights are moved into one `SealedMemory`, so that nothing is there twice; when all are in,
the memory is sealed, and where each lies is written down. Views and ties are kept, for whoever moves the weights
allocates a fused or tied tensor once. What cannot be lent is `Withheld`, with a reason that clients are told, and
the weights then lie on the heap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from symbiosis_core.config import LendingConfig
from symbiosis_core.logs import event, get_logger
from symbiosis_core.specs import LentTensor
from symbiosis_scheduler.frozen.quantised import BITS, held_as
from symbiosis_transports.sealed import SealedMemory
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["UNASKED", "Heap", "LendableMemory", "Lent", "Place", "Withheld", "place_for"]

log = get_logger(__name__)

_ALIGNMENT: Final = 64
"""Bytes; as torch aligns what it allocates, so that its kernels choose the same ways and give the same bits."""
_DTYPES: Final = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}


class Lent(NamedTuple):
    """Weights that can be lent: the sealed memory, and where in it each of them lies."""

    memory: SealedMemory
    tensors: tuple[LentTensor, ...]


class Withheld(NamedTuple):
    """Why the weights are not lent, and what the operator can do about it."""

    reason: str
    remedy: str


UNASKED: Final = Withheld("this daemon was not asked to lend its weights", "")


class Place(Protocol):
    """Where weights are moved to."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Returns memory for one tensor, in C order; the caller fills it."""

    def close(self, named: Iterable[tuple[str, Tensor]]) -> Lent | Withheld:
        """Says that all weights have been moved; `named` gives each under every name."""


class Heap:
    """The memory of this process alone."""

    def __init__(self, why: Withheld = UNASKED) -> None:
        self._why = why

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def close(self, named: Iterable[tuple[str, Tensor]]) -> Withheld:
        return self._why


class LendableMemory:
    """One sealed memory for all weights of a model."""

    def __init__(self, capacity_bytes: int) -> None:
        """Raises OSError where the system has no such memory."""
        self._memory = SealedMemory(capacity_bytes)
        self._used = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = torch.Size(shape).numel()
        if not count:
            return torch.empty(shape, dtype=dtype)
        start = self._used
        self._used += -(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        assert self._used <= self._memory.nbytes  # `_capacity` has counted every tensor
        return torch.frombuffer(self._memory.mapping, dtype=dtype, count=count, offset=start).view(*shape)

    def close(self, named: Iterable[tuple[str, Tensor]]) -> Lent | Withheld:
        tensors = tuple([lent for name, tensor in named if (lent := self._find(name, tensor)) is not None])
        try:
            self._memory.seal(self._used)
        except OSError as error:
            return _impossible(error)
        log.info(event("weights can be lent", tensors=len(tensors), lent_bytes=self._memory.nbytes))
        return Lent(self._memory, tensors)

    def _find(self, name: str, tensor: Tensor) -> LentTensor | None:
        offset = tensor.data_ptr() - self._memory.address
        if not 0 <= offset < self._used or not tensor.is_contiguous() or tensor.dtype not in _DTYPES:
            return None
        return LentTensor(name, _DTYPES[tensor.dtype], tuple(tensor.shape), offset)


def place_for(model: PreTrainedModel, config: LendingConfig, device: torch.device) -> Place:
    """Returns where the weights of a model go that will be computed with on `device`."""
    if config.allow == "nobody":
        return Heap(
            Withheld("the daemon's configuration lends its weights to nobody", 'set lending.allow = "same_user"')
        )
    if device.type != "cpu":
        return Heap(Withheld(f"the daemon holds its weights on {device}", "start it with --device cpu"))
    if held := held_as(model):
        return Heap(Withheld(f"the daemon holds its weights in {BITS[held]}", "serve the base without quantize"))
    try:
        return LendableMemory(_capacity(model))
    except OSError as error:
        return Heap(_impossible(error))


def _capacity(model: PreTrainedModel) -> int:
    """Returns enough bytes for every parameter, biases that fusing adds included; untouched pages cost nothing."""
    widths = (module.out_features for module in model.modules() if isinstance(module, torch.nn.Linear))
    added = sum(8 * width + _ALIGNMENT for width in widths)
    every = chain.from_iterable(module.parameters(recurse=False) for module in model.modules())
    return sum(parameter.nbytes + _ALIGNMENT for parameter in every) + added + _ALIGNMENT


def _impossible(error: OSError) -> Withheld:
    log.warning(event("weights cannot be lent", reason=error))
    return Withheld(f"this system cannot share the daemon's weights: {error}", "the daemon's log says more")
