"""The model classes that PEFT's tests get in the place of their own: what they open is a remote base.

The base is in this process, so no daemon is started a thousand times; all that a client does is real, and the
daemon's own layers compute. Where a test asks for a model in another element type, or with another configuration,
it gets a base that was loaded so, as a daemon would have been started for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from symbiosis_adapters.layers.exact_types import pass_for_linears
from symbiosis_adapters.layers.making import make_remote
from symbiosis_adapters.layers.modules import form
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenTable
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.takes import Takes
from symbiosis_core.ids import OpId
from symbiosis_core.specs import OpKind, OpSpec
from symbiosis_transports.tensors import TORCH_DTYPES
from tests.adapters.local import LocalBase, LocalRows
from tests.compat.hub import MODELS

__all__ = ["LentCausalLM", "lent_module"]

_DTYPES = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}


class LentCausalLM:
    """Opens causal language models as remote ones. In the place of `transformers.AutoModelForCausalLM`."""

    cut: ClassVar[Cut] = Cut.GRAPH
    _bases: ClassVar[dict[str, LocalBase]] = {}

    @classmethod
    def from_pretrained(cls, name: Any, **loaded: Any) -> Any:
        """Returns a remote model of a base that was loaded with these arguments; one base for the same ones."""
        key = f"{name} {sorted(loaded.items(), key=str)}"
        if key not in cls._bases:
            plain = transformers.AutoModelForCausalLM.from_pretrained(name, **loaded)
            base = LocalBase(plain, _DTYPES[plain.dtype], str(name))
            if name not in MODELS:  # a folder, which may have another model in it the next time
                return base.remote(cls.cut)
            cls._bases[key] = base
        return cls._bases[key].remote(cls.cut)


class _Values:
    """Lends the weights of a plain module. Implements `placeholder.Lending`."""

    withheld = False
    takes = Takes()

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def frozen(self, name: str) -> Tensor:
        return self._module.get_parameter(name).detach()

    def private(self, name: str) -> Tensor:
        return self.frozen(name).clone()


def lent_module(module: nn.Module) -> nn.Module:
    """Returns a module of any kind with every linear and embedding remote, each a trip of its own.

    No daemon lends such modules. It is the remote layers that are tried on them, with what PEFT does to layers.
    """
    plain = copy.deepcopy(module).requires_grad_(False)
    rows, lending = LocalRows(plain), _Values(plain)
    placeholders: dict[int, FrozenWeight] = {}
    alive = list(module.parameters())  # former parameters, so that no id is used twice
    for number, (path, layer) in enumerate(list(module.named_modules())):
        found = form(layer)
        if found is None or getattr(layer, "max_norm", None) is not None:
            continue
        kind, width_in, width_out = found
        dtype = layer.weight.dtype
        assert isinstance(dtype, torch.dtype)
        op = OpSpec(OpId(number), kind, (path,), width_in, (width_out,), _DTYPES[dtype])
        remote: Callable[[Tensor], Tensor] = (FrozenTable if kind is OpKind.EMBEDDING else FrozenLinear)(rows, op)
        make_remote(layer, path, remote, dtype, placeholders, lending)
    del alive
    pass_for_linears()
    return module
