"""Watches how a model uses its parameters of three dimensions: the experts of a mixture, stacked.

Only what is taken matrix by matrix, and by which rows are multiplied, can be an op for every matrix. Transformers
has several ways to compute experts; the one that it calls eager does just that, wherever a model has it, and gives
what the others give. So it is chosen for the probe, and by the client for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

__all__ = ["MatrixUses", "matrix_by_matrix"]

_DIMENSIONS: Final = 3
_MATMUL: Final = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


@contextmanager
def matrix_by_matrix(model: PreTrainedModel) -> Iterator[MatrixUses]:
    """Watches while the block runs, with the experts computed eagerly."""
    stacks = {
        id(parameter): name
        for name, parameter in model.named_parameters()
        if parameter.ndim == _DIMENSIONS and parameter.is_floating_point()
    }
    uses = MatrixUses(stacks)
    if not stacks:
        yield uses
        return
    before = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        with uses:
            yield uses
    finally:
        model.set_experts_implementation(before)


class MatrixUses(TorchFunctionMode):
    """Notes what is done to the stacks, by their id, and to the matrices taken from them."""

    def __init__(self, stacks: dict[int, str]) -> None:
        super().__init__()
        self._stacks = stacks
        self._matrices: dict[int, tuple[str, Tensor]] = {}  # holds them, so that no id is used twice
        self._uses: dict[str, set[bool | None]] = {}

    def agreed(self) -> dict[str, bool]:
        """Returns the stacks of which every use was one of the two, always the same: whether as x @ W."""
        return {
            name: transposed
            for name, (transposed, *others) in ((name, list(uses)) for name, uses in self._uses.items())
            if not others and transposed is not None
        }

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            return result  # a question, such as for the shape
        stack = self._stacks.get(id(args[0])) if args else None
        if stack is not None and func is Tensor.__getitem__ and _is_one(args[1]):
            self._matrices[id(result)] = (stack, result)
            return result
        for leaf in tree_leaves((args, kwargs)):
            name = self._stacks.get(id(leaf)) or self._matrices.get(id(leaf), ("", leaf))[0]
            if name:
                self._uses.setdefault(name, set()).add(_use(func, args, leaf))
        return result


def _is_one(index: Any) -> bool:
    return type(index) is int or (isinstance(index, Tensor) and not index.ndim and index.dtype is torch.int64)


def _use(func: Callable[..., Any], args: Any, matrix: Any) -> bool | None:
    """Returns whether rows are multiplied as x @ W, or as linear(x, W); None: anything else."""
    if len(args) < 2 or args[1] is not matrix or matrix.ndim != _DIMENSIONS - 1 or args[0] is matrix:
        return None
    return True if func in _MATMUL else False if func is F.linear else None
