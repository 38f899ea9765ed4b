"""How long a side looks for the other's word before it sleeps.

Looking means yielding the core at every look (`sched_yield`): where both sides share a core, a plain spin was
measured 4 times slower than no spin, and a yielding one faster than either (docs/decisions). On a
machine with one core there is nothing to look for.
"""

from __future__ import annotations

import os

from symbiosis_core.errors import UsageError

__all__ = ["SPIN_VARIABLE", "client_spin_us", "spin_budget_us"]

SPIN_VARIABLE = "SYMBIOSIS_SPIN_US"
_DEFAULT_US = 20
_LONGEST_US = 10_000


def spin_budget_us(wanted_us: int) -> int:
    """Returns the microseconds to stay awake: as wanted, but 0 where there is one core."""
    return wanted_us if len(os.sched_getaffinity(0)) > 1 else 0


def client_spin_us() -> int:
    """Returns how long a client stays awake: the environment's word, or the default within `spin_budget_us`.

    Raises:
        UsageError: the environment variable is no number of microseconds.
    """
    text = os.environ.get(SPIN_VARIABLE)
    if text is None:
        return spin_budget_us(_DEFAULT_US)
    if not text.isdecimal() or int(text) > _LONGEST_US:
        raise UsageError(f"{SPIN_VARIABLE}={text!r}: write microseconds from 0 to {_LONGEST_US}")
    return int(text)
