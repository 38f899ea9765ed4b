"""What a figure should come to."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Target"]


class Target(msgspec.Struct, frozen=True):
    """A bound on a figure, from below or from above."""

    sense: Literal["<=", ">="]
    value: float

    def __str__(self) -> str:
        return f"{self.sense} {self.value:.2f}"

    def met(self, value: float) -> bool:
        return value <= self.value if self.sense == "<=" else value >= self.value
