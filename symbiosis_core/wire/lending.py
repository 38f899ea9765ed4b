"""How weights are borrowed."""

from __future__ import annotations

import msgspec

from symbiosis_core.specs import LentTensor
from symbiosis_core.wire.limits import BootId, ModelName

__all__ = ["Borrow", "Loan"]


class Borrow(msgspec.Struct, frozen=True, tag="borrow"):
    """Asks for the weights themselves, to be mapped by a client on the same host."""

    model: ModelName = ""
    boot_id: BootId = ""
    """Of the kernel that the client runs under: memory cannot be lent to another."""


class Loan(msgspec.Struct, frozen=True, tag="loan"):
    """The weights are lent: their descriptor is handed over at `endpoint`."""

    endpoint: str
    fingerprint: str
    """Of the model whose weights these are."""
    lent_bytes: int
    """Size of the memory."""
    tensors: tuple[LentTensor, ...]
    """Where each weight lies in it. Tied weights lie at one place, fused ones beside each other."""
