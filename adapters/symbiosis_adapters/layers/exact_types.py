"""Code that asks whether a layer's type is `nn.Linear` itself, and not a subclass: PEFT's GLoRA does.

It means a layer that computes x W^T + b and nothing else, and a remote linear does. A subclass cannot be the type
itself, so in such a module the name `type` stands for a function that says `nn.Linear` of a remote one. Modules
that are loaded after the model was built are not reached: import PEFT first, as scripts do.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from torch import nn

from symbiosis_adapters.layers.modules import RemoteLinear

__all__ = ["pass_for_linears"]

_ASKING: Final = ("peft.tuners.glora.model",)


def pass_for_linears() -> None:
    """Has remote linears taken for linears where the very type is asked for. May be called again."""
    for name in _ASKING:
        if name in sys.modules:
            vars(sys.modules[name])["type"] = _type


def _type(x: Any) -> Any:
    """Returns the type, or for a remote linear the one that it stands for."""
    return nn.Linear if type(x) is RemoteLinear else type(x)
