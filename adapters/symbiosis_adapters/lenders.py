"""Who has the values that a placeholder stands for."""

from __future__ import annotations

from typing import Final, Protocol

import torch

from symbiosis_adapters.takes import Takes
from symbiosis_core.errors import RefusalCode, RefusedError

__all__ = ["NOBODY", "Lending"]


class Lending(Protocol):
    """Where the real values come from."""

    takes: Takes
    """What was taken of them."""

    def frozen(self, name: str) -> torch.Tensor:
        """Returns a weight for reading.

        Raises:
            RefusedError: the daemon does not lend.
        """

    def private(self, name: str) -> torch.Tensor:
        """Returns a weight in memory that nobody else has, to be written to. Raises as `frozen` does."""

    @property
    def withheld(self) -> bool:
        """Whether the values could not be had when they were last asked for."""


class _Nobody:
    """Lends nothing."""

    takes = Takes()

    def frozen(self, name: str) -> torch.Tensor:
        raise RefusedError(RefusalCode.NOT_LENT, "this model was built without a way to borrow them")

    private = frozen
    withheld = True


NOBODY: Final[Lending] = _Nobody()
