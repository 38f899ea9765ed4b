"""Bounds how long OpenMP's threads look for work. Must run before torch is imported, so it imports nothing."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["GOMP_SPINCOUNT", "bound_openmp"]

GOMP_SPINCOUNT: Final = "20000"
"""How often an OpenMP thread looks for work before it sleeps. Unbounded looking takes a core from the clients
for good; none at all makes a sequence of small products 2-3 times slower."""


def bound_openmp() -> None:
    """Bounds the waiting of OpenMP threads, unless the user has. Works only before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
