"""How weights from a checkpoint are compared with those of the daemon: by what either makes of a few rows."""

from __future__ import annotations

from typing import Final

import torch

__all__ = ["PROBES", "agree", "probe_rows"]

PROBES: Final = 16
"""Rows compared when a base weight is loaded from a checkpoint."""
_TOLERANCE: Final = 2e-2
"""The rounding of the coarsest dtype that a base is held in."""


def probe_rows(width: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns rows that any two matrices of that width in treat differently: `PROBES x width`."""
    rows = torch.linspace(-1, 1, PROBES * width, dtype=torch.float64, device=device)
    return rows.sin().view(PROBES, width).to(dtype)


def agree(here: torch.Tensor, there: torch.Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    here, there = here.float(), there.float().to(here.device)
    return torch.allclose(here, there, rtol=_TOLERANCE, atol=_TOLERANCE * float(there.abs().max()))
