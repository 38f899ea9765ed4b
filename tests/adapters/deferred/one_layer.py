"""One frozen linear, remote and plain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import Pair

D = 32
LEAD = (2, 3)


class Layer:
    """One frozen linear, remote and plain."""

    def __init__(self) -> None:
        self.pair = Pair("llama")
        self.remote: Any = self.pair.remote(Cut.GRAPH).model.layers[0].self_attn.o_proj
        self.plain: Any = self.pair.plain().model.layers[0].self_attn.o_proj.requires_grad_(False)

    def both(self, *lead: int, grad: bool = False) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Returns a deferred tensor and what it stands for, then the inputs of both."""
        torch.manual_seed(1)
        mine = torch.randn(*(lead or LEAD), D)
        theirs = mine.clone()
        x, y = (each.requires_grad_(grad) for each in (mine, theirs))
        return self.remote(x * 1), self.plain(y * 1), x, y

    @property
    def trips(self) -> int:
        return len(self.pair.rows.forward)
