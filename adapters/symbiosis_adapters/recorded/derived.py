"""Vectors that a module makes of its frozen ones before a row meets them: Gemma's `1 + weight`, a cast.

Torch's functions do not ask a parameter, so `1 + weight` leaves a tensor that nobody knows. While a forward is
watched that may become a passage, a mode sees every function and notes how such a tensor was made. The daemon
makes it of its own copy, and the passage has that from then on: the mode is paid for once in a module's life.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from symbiosis_adapters.deferred.recording import DTYPES, NodeKey

__all__ = ["Derivations", "Derived", "derivation_of"]


class Derived(NamedTuple):
    """How a tensor was made of a frozen vector."""

    vector: Tensor
    nodes: tuple[NodeKey, ...]
    """One after the other; their arguments are still open."""


class _Watched(threading.local):
    innermost: Derivations | None = None


_watched = _Watched()


class Derivations(TorchFunctionMode):
    """While it is on, this thread's `derivation_of` knows what is made of frozen vectors."""

    def __init__(self, frozen: Callable[[Any], bool]) -> None:
        """`frozen` says which tensors are vectors of the base, and still hold what it has."""
        super().__init__()
        self._frozen = frozen
        self._made: dict[int, tuple[Tensor, Tensor, Derived]] = {}
        """By the ids of tensors, which are held so that no id comes twice; and what they held."""
        self._outer: Derivations | None = None

    def __enter__(self) -> Derivations:
        self._outer, _watched.innermost = _watched.innermost, self
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self

    def __exit__(self, *error: Any) -> None:
        _watched.innermost = self._outer
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # as above

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if type(result) is Tensor and (made := self._derived(func, args, kwargs or {}, result)) is not None:
            self._made[id(result)] = result, result.clone(), made
        return result

    def of(self, x: Tensor) -> Derived | None:
        """Returns how `x` was made; None where it is nothing of the kind, or was changed since."""
        found = self._made.get(id(x))
        return found[2] if found is not None and torch.equal(x, found[1]) else None

    def _derived(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> Derived | None:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if len(tensors) != 1 or result.requires_grad:
            return None
        source = self.of(tensors[0]) or (Derived(tensors[0], ()) if self._frozen(tensors[0]) else None)
        node = None if source is None else _node(func, args, kwargs, result)
        if source is None or node is None:
            return None
        return Derived(source.vector, (*source.nodes, node))


def derivation_of(x: Tensor) -> Derived | None:
    """Returns how `x` was made of a frozen vector, where that was seen."""
    watching = _watched.innermost
    return None if watching is None else watching.of(x)


def _node(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
) -> NodeKey | None:
    """Returns the function of one vector, and of a number at most, that was called; None for any other."""
    if func in _CASTS:
        return NodeKey("cast", (), dtype=int(DTYPES[result.dtype])) if result.dtype in DTYPES else None
    fn = _ARITHMETIC.get(func)
    numbers = [each for each in args if type(each) in (int, float)]
    if fn is None or kwargs or len(args) != 2 or len(numbers) != 1:
        return None
    return NodeKey(fn, (), number=numbers[0])


_CASTS: Final = frozenset({Tensor.float, Tensor.to})
_ARITHMETIC: Final = {
    function: fn
    for fn, functions in {
        "add": (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
        "mul": (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    }.items()
    for function in functions
}
"""Those whose operands may change places."""
