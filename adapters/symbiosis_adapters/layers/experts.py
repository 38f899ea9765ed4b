"""Experts: matrices of one parameter of three dimensions, each computed elsewhere.

The parameter is a placeholder. Taking one of its matrices gives a placeholder again, which knows its op, and a
linear or a product of rows with that is the op's trip. So a model's own code decides which experts are asked, and
only those are. With the graph cut the products and what is between them are one trip for each expert that is hit.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import torch
from torch.nn import functional as F

from symbiosis_adapters.deferred.tensor import RULES, value_of
from symbiosis_adapters.layers.trained import Body
from symbiosis_adapters.trips.narrowing import computed_narrow
from symbiosis_adapters.trips.remote import FrozenLinear
from symbiosis_adapters.weights.lenders import Lending
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.probing import agree, probe_rows
from symbiosis_adapters.weights.valueless import Valueless
from symbiosis_core.errors import UsageError

__all__ = ["FrozenExperts", "install_expert_rules"]

_MATMUL: Final = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


class FrozenMatrix(FrozenWeight):
    """One of the matrices."""

    remote: FrozenLinear | None = None
    """None: it is a view of one."""

    def holds(self, given: torch.Tensor) -> bool:
        """Whether the daemon computes with these values, within the rounding of its dtype."""
        assert self.remote is not None  # views are not compared
        alone = _at_once(self.remote)
        with torch.no_grad():
            x_TD, weight_DO = probe_rows(alone.width_in, alone.dtype), given if alone.spec.transposed else given.T
            return agree(alone(x_TD), x_TD.to(given.dtype) @ weight_DO)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = _product(func, args, kwargs or {})
        return super().__torch_function__(func, types, args, kwargs) if answer is NotImplemented else answer


class FrozenExperts(FrozenWeight):
    """The parameter."""

    matrices: tuple[FrozenMatrix, ...] = ()
    body: Body | None = None
    """All layers of its model, where ops may be deferred."""

    @classmethod
    def of_ops(
        cls,
        remotes: Sequence[FrozenLinear],
        label: str,
        device: torch.device | str,
        lending: Lending | None = None,
    ) -> FrozenExperts:
        """Returns the placeholder of a parameter whose matrices are these ops, in order."""
        op = remotes[0].spec
        shape = (op.width_in, op.width_out) if op.transposed else (op.width_out, op.width_in)
        made = cls.of((len(remotes), *shape), remotes[0].dtype, device, label, lending)
        made._divide(remotes)
        return made

    def _divide(self, remotes: Sequence[FrozenLinear]) -> None:
        """Makes the views that are the matrices: taken with the whole, should anybody need their values."""
        with torch._C.DisableTorchFunctionSubclass():
            self.matrices = tuple([self._matrix(index, remote) for index, remote in enumerate(remotes)])

    def _matrix(self, index: int, remote: FrozenLinear) -> FrozenMatrix:
        def take(whole: torch.Tensor) -> torch.Tensor:
            return whole[index]

        made = FrozenMatrix._guard(take(self), remote.spec.name, self.lending, (self, take))
        made.remote = remote
        self._views.append(weakref.ref(made))
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = super().__deepcopy__(memo)
        copied.body = copy.deepcopy(self.body, memo)
        return copied

    def _copy(self, dtype: torch.dtype | None = None) -> Valueless:
        copied = super()._copy(dtype)
        assert isinstance(copied, FrozenExperts)
        copied.body = self.body
        copied._divide([matrix.remote for matrix in self.matrices if matrix.remote is not None])
        return copied

    def _turn_into(self, value: Valueless) -> None:
        super()._turn_into(value)
        self._divide([matrix.remote for matrix in self.matrices if matrix.remote is not None])

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__ and (matrix := _matrix(*args)) is not None:
            return matrix
        if func is torch.Tensor.copy_ and isinstance(args[0], cls):
            return args[0]._compare(args[1])
        return super().__torch_function__(func, types, args, kwargs)

    def _compare(self, given: torch.Tensor) -> FrozenExperts:
        """Returns itself: what is loaded from a checkpoint must be what the daemon computes with.

        Raises:
            UsageError: it is not.
        """
        for matrix, weight in zip(self.matrices, given, strict=True):
            if not isinstance(given, FrozenWeight) and not matrix.holds(weight):
                raise UsageError(f"{matrix.label} differs from the daemon's, which cannot be changed from here")
        return self


def install_expert_rules() -> None:
    """Has products of deferred rows with an expert recorded."""
    for func in (F.linear, *_MATMUL):
        RULES[func] = _rule(func)


def _rule(func: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    return lambda args, kwargs: _product(func, args, kwargs)


def _matrix(experts: Any, index: Any) -> FrozenMatrix | None:
    if isinstance(index, torch.Tensor) and not index.ndim and index.dtype is torch.int64:
        index = index.item()
    if type(index) is not int or not isinstance(experts, FrozenExperts):
        return None
    return experts.matrices[index] if 0 <= index < len(experts.matrices) else None


def _at_once(remote: FrozenLinear) -> FrozenLinear:
    """The same op, never deferred."""
    return FrozenLinear(remote.rows, remote.spec)


def _body(matrix: FrozenMatrix) -> Body | None:
    experts = matrix._origin[0] if matrix._origin is not None else None
    return experts.body if isinstance(experts, FrozenExperts) else None


def _product(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Returns rows times an expert; NotImplemented where it is anything else."""
    if kwargs or len(args) < 2 or type(args[1]) is not FrozenMatrix or isinstance(args[0], FrozenWeight):
        return NotImplemented
    x, matrix = args[0], args[1]
    remote = matrix.remote
    if remote is None or func not in (*_MATMUL, F.linear) or remote.spec.transposed != (func in _MATMUL):
        return NotImplemented
    held, body = matrix.held, _body(matrix)
    if body is not None and body.is_trained:
        x, remote = value_of(x), _at_once(remote)
    y = remote(x) if held is None else computed_narrow(remote, x, held)
    return y if len(args) == 2 or args[2] is None else y + args[2]
