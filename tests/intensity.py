"""How much is tried: what fits into every run, or, with SYMBIOSIS_TESTS=nightly (`make nightly`), much more."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["NIGHTLY", "cases"]

NIGHTLY: Final = os.environ.get("SYMBIOSIS_TESTS") == "nightly"


def cases(usual: int, nightly: int) -> int:
    """Returns how many of something are to be tried in this run."""
    return nightly if NIGHTLY else usual
