"""Medians with their spread, and rates of processes that ran side by side. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec

__all__ = ["Spread", "mean_occupancy", "rate_together", "ratios", "spread", "step_s"]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One value a round, and what they come to."""

    median: float
    min: float
    max: float
    rounds: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Returns the spread of at least one value."""
    return Spread(median=median(values), min=min(values), max=max(values), rounds=tuple(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Returns the spread of the quotients, round by round: what a round has in common cancels out."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def step_s(*stamps_s: Sequence[float]) -> float:
    """Returns the median time from one stamp to the next, of one process or of several."""
    return median(later - earlier for one in stamps_s for earlier, later in pairwise(one))


def rate_together(stamps_s: Sequence[Sequence[float]]) -> float:
    """Returns how many stamps a second all processes made together while all of them ran.

    That is from the first stamp of the one that was last to have one, to the last stamp of the one that was done
    first. Each process counts with its whole steps in that time, over the time they took; one that ended no step
    in it counts with all of its steps.
    """
    begin, end = max(one[0] for one in stamps_s), min(one[-1] for one in stamps_s)
    return sum(_rate([stamp for stamp in one if begin <= stamp <= end], one) for one in stamps_s)


def _rate(within: Sequence[float], all_of_it: Sequence[float]) -> float:
    counted = within if len(within) > 1 else all_of_it
    return (len(counted) - 1) / (counted[-1] - counted[0])


def mean_occupancy(batches: int, clients: int) -> float:
    """Returns the mean number of clients in a batch; 0 where there was none."""
    return clients / batches if batches else 0.0
