"""Which casts of the base a client may ask for: into a wider type, in which every value stays what it is.

`prepare_model_for_kbit_training` and `model.float()` do that. The daemon goes on computing in its own type, for
all its clients; what is wider is what goes in and what comes out (`narrowing`), as in a quantised linear that has
a type to compute in.
"""

from __future__ import annotations

from typing import Final

import torch

__all__ = ["WIDE", "widens"]

WIDE: Final = torch.float32
_HALVES: Final = frozenset({torch.bfloat16, torch.float16})


def widens(held: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether every number of one type is one of the other, which is wider."""
    return wanted is WIDE and held in _HALVES
