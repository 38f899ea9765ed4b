"""Who has the values that a placeholder stands for."""

from __future__ import annotations

from typing import Final, Protocol

import torch

from symbiosis_adapters.trips.widening import WIDE
from symbiosis_adapters.weights.takes import Takes
from symbiosis_core.errors import RefusalCode, RefusedError

__all__ = ["NOBODY", "Lending", "Widened", "in_another_type", "in_own_type"]


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


class Widened:
    """Lends the same values in a wider type. Implements `Lending`."""

    def __init__(self, narrow: Lending, held: torch.dtype) -> None:
        self.narrow = narrow
        self.held = held
        """The daemon's type."""
        self.takes = narrow.takes

    def frozen(self, name: str) -> torch.Tensor:
        """See `Lending.frozen`. A copy, so it may be written to, too."""
        return self.narrow.frozen(name).to(WIDE)

    private = frozen

    @property
    def withheld(self) -> bool:
        """See `Lending.withheld`."""
        return self.narrow.withheld


def in_own_type(lending: Lending | None) -> Lending:
    """Returns who has the values in the daemon's own type."""
    return lending.narrow if isinstance(lending, Widened) else lending or NOBODY


def in_another_type(lending: Lending | None, dtype: torch.dtype) -> Lending:
    """Returns who has the values in the other type than `dtype`: the wider one, or the daemon's own again."""
    return lending.narrow if isinstance(lending, Widened) else Widened(lending or NOBODY, dtype)
