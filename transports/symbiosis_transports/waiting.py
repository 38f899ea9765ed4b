"""How long a side looks for the other's word before it sleeps.

Looking means yielding the core at every look (`sched_yield`): where both sides share a core, a plain spin was
measured 4 times slower than no spin, and a yielding one faster than either (docs/decisions). On a
machine with one core there is nothing to look for.
"""

from __future__ import annotations

import os

from symbiosis_core.errors import UsageError

__all__ = ["SPIN_VARIABLE", "spin_budget_us"]

SPIN_VARIABLE = "SYMBIOSIS_SPIN_US"
_DEFAULT_US = 20
_LONGEST_US = 10_000


def spin_budget_us(default_us: int = _DEFAULT_US) -> int:
    """Returns the microseconds to stay awake: the environment's word, or `default_us`, or 0 with one core.

    Raises:
        UsageError: the environment variable is no number of microseconds.
    """
    text = os.environ.get(SPIN_VARIABLE)
    if text is not None:
        if not text.isdecimal() or int(text) > _LONGEST_US:
            raise UsageError(f"{SPIN_VARIABLE}={text!r}: write microseconds from 0 to {_LONGEST_US}")
        return int(text)
    return default_us if len(os.sched_getaffinity(0)) > 1 else 0
