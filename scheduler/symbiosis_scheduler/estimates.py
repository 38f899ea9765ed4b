"""A mean and how far values stray from it, in two numbers, as TCP keeps them of its round trips (RFC 6298)."""

from __future__ import annotations

from typing import Final

__all__ = ["Estimate"]

_LEAST_SLACK_US: Final = 200
"""Whoever is estimated is given at least this much more than usual."""


class Estimate:
    """Of times in microseconds. Negative until something was added."""

    __slots__ = ("deviation", "mean")

    def __init__(self) -> None:
        self.mean = self.deviation = -1.0

    def __repr__(self) -> str:
        return f"<Estimate {self.mean:.0f} +- {self.deviation:.0f} us>" if self.known else "<Estimate of nothing>"

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return self.mean >= 0

    @property
    def late(self) -> float:
        """When to stop waiting."""
        return self.mean + max(4 * self.deviation, _LEAST_SLACK_US)

    def add(self, us: float) -> None:
        """Takes one more time into account."""
        if self.mean < 0:
            self.mean, self.deviation = us, us / 2
            return
        self.deviation += (abs(us - self.mean) - self.deviation) / 4
        self.mean += (us - self.mean) / 8
