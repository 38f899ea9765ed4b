"""What a token may take at most, and how many keep it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import msgspec

from symbiosis_bench.mixed.load import Times
from symbiosis_bench.mixed.messages import Served
from symbiosis_core.config import LaneConfig

__all__ = ["TokenTargets", "targets", "within"]

_TIMES_UNLOADED: Final = 1.5


class TokenTargets(msgspec.Struct, frozen=True, kw_only=True):
    """Of the lane that serves."""

    first_token_s: float
    """From when the client begins a prompt to its first token."""
    token_s: float
    """From one token to the next."""
    derived: bool
    """Whether the lane has none, so that these are 1.5 times the p99 of one client alone."""


def targets(lane: LaneConfig, alone: Times) -> TokenTargets:
    """Returns what the lane's configuration says, one of the two for both as in the policy `deadline`."""
    first_us, later_us = lane.first_token_us or lane.token_us, lane.token_us or lane.first_token_us
    if first_us:
        return TokenTargets(first_token_s=first_us / 1e6, token_s=later_us / 1e6, derived=False)
    return TokenTargets(
        first_token_s=_TIMES_UNLOADED * alone.p99_first_token_s,
        token_s=_TIMES_UNLOADED * alone.p99_token_s,
        derived=True,
    )


def within(served: Served, most: TokenTargets) -> tuple[float, float]:
    """Returns the shares of first tokens and of later ones that took no longer."""
    first = [stamps[0] - began for began, stamps in zip(served.began_s, served.tokens_s, strict=True)]
    later = [after - before for stamps in served.tokens_s for before, after in itertools.pairwise(stamps)]
    return _share(first, most.first_token_s), _share(later, most.token_s)


def _share(times_s: Sequence[float], most_s: float) -> float:
    return sum(time_s <= most_s for time_s in times_s) / len(times_s) if times_s else 1.0
