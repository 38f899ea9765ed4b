"""What every key says: its spread, its target, whether results were the same, and what else is worth knowing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.spread import Spread
from symbiosis_bench.targets import Target

__all__ = ["JOBS", "KEYS", "TARGETS", "Figure", "figure"]

JOBS: Final = "jobs_on_one_gpu"
"""Measured on a GPU; elsewhere only where it is asked for, with a limit."""
TARGETS: Final[Mapping[str, Target | None]] = {
    "train_tax": Target("<=", 1.10),
    "decode_tax": Target("<=", 1.05),
    "decode4_gain": Target(">=", 2.0),
    "decode4_occupancy": Target(">=", 3.0),
    "train4_gain": Target(">=", 1.0),
    "memory_share": Target("<=", 1.25),
    "client_peak_activations": Target("<=", 1.0),
    "padding_saved": None,
    JOBS: None,
}
KEYS: Final = tuple(TARGETS)


class Figure(Spread, frozen=True, kw_only=True):
    """One key of the report."""

    target: Target | None
    met: bool | None
    """Whether the median meets the target. None: there is no target, or a quick figure, which means nothing, or
    one round, which may be any."""
    verified: bool | None
    """Whether every check passed. None: nothing was compared."""
    checks: tuple[Check, ...]
    beside: dict[str, Spread]
    """What the figure is made of, and other contenders; units are in the names."""
    notes: dict[str, str]
    lent: Spread | None = None
    """The same under the cut `lent`, in which clients compute with the daemon's weights themselves. What it
    is made of is in `beside`, too."""


def figure(
    key: str,
    spread: Spread,
    *,
    quick: bool,
    checks: Sequence[Check] = (),
    beside: Mapping[str, Spread] | None = None,
    notes: Mapping[str, str] | None = None,
    lent: Spread | None = None,
) -> Figure:
    """Returns the figure of a key."""
    target = TARGETS[key]
    return Figure(
        median=spread.median,
        min=spread.min,
        max=spread.max,
        rounds=spread.rounds,
        target=target,
        met=None if target is None or quick or len(spread.rounds) == 1 else target.met(spread.median),
        verified=all(check.passed for check in checks) if checks else None,
        checks=tuple(checks),
        beside=dict(beside or {}),
        notes=dict(notes or {}),
        lent=lent,
    )
