"""A tensor without values: its shape, type and device, whose values they would be, and of what it is a view.

There is one element, expanded with stride 0. A view knows how it is made of its whole, so that whoever has the
values of that has the view's; and a whole knows its living views, which go where it goes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from symbiosis_adapters.weights.factors import Multiplier
from symbiosis_adapters.weights.lenders import Lending, Widened, in_another_type

__all__ = ["Valueless", "changes", "note_change", "root_of", "same_layout", "unbound", "viewed"]

_changes = 0


if TYPE_CHECKING:  # which knows classes, and not torch's mark
    _Tensor = nn.Parameter
else:
    _Tensor = torch.Tensor


class Valueless(_Tensor):
    """A parameter without values. `label` says whose it is: `model.layers.0.self_attn.q_proj.weight`.

    Its methods that begin with an underscore expect torch functions to be off.
    """

    _is_param: bool = False
    """Torch's own mark: whether `isinstance` takes it for an nn.Parameter."""
    label: str
    lending: Lending | None
    """Who has the values; None: nobody."""
    multiplier: Multiplier | None = None
    """Of a linear's weight: what multiplies rows by it."""
    computed: Callable[[], torch.Tensor] | None = None
    """Makes the values out of what the daemon computes, for who may not have them: a bias can be had so."""
    _origin: tuple[Valueless, Callable[[torch.Tensor], torch.Tensor]] | None
    """Of what this is a view, and how it is made."""
    _views: list[weakref.ref[Valueless]]
    """Views of this one; those that live are taken with it."""
    _shown: torch.Tensor | None = None
    """The values, where somebody has asked for their address: they lie there for as long as this one lives."""
    _apart: bool = False
    """Whether it is a copy, whose values lie at an address of their own."""

    @classmethod
    def of(
        cls,
        shape: Iterable[int],
        dtype: torch.dtype,
        device: torch.device | str,
        label: str,
        lending: Lending | None = None,
    ) -> Self:
        """Returns one that is a parameter; it takes the memory of one element."""
        with torch.inference_mode(False):  # it may become a parameter that outlives the mode
            data = torch.full((), torch.nan, dtype=dtype, device=device).expand(*shape)
            made = cls._guard(data, label, lending, None)
        made._is_param = True
        return made

    @classmethod
    def _guard(cls, data: torch.Tensor, label: str, lending: Lending | None, origin: Any) -> Self:
        weight: Self = torch.Tensor._make_subclass(cls, data, False)
        weight.label, weight.lending, weight._origin, weight._views = label, lending, origin, []
        return weight

    def _view(self, make: Callable[[torch.Tensor], torch.Tensor], data: torch.Tensor | None = None) -> Self:
        """Returns the view that `make` makes.

        `data` is what it shows: one element, where `make` would write out as many as there seem to be.
        """
        with torch.inference_mode(False):
            return self._several([(make(self) if data is None else data, make)])[0]

    def _several(self, made: Iterable[tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]) -> list[Self]:
        views = [self._guard(data, self.label, self.lending, (self, make)) for data, make in made]
        living = [known for known in self._views if known() is not None]
        self._views = living + [weakref.ref(view) for view in views]
        return views

    def _copy(self, dtype: torch.dtype | None = None) -> Valueless:
        """Returns one that shares no memory with this one if it is taken; of the values in `dtype`, if given."""
        if self._origin is None:
            wanted = dtype or self.dtype
            lending = self.lending if wanted is self.dtype else in_another_type(self.lending, self.dtype)
            copied = self.of(self.shape, wanted, self.device, self.label, lending)
            copied.multiplier, copied.computed, copied._apart = self.multiplier, self.computed, True
            return copied
        whole, make = self._origin
        data = self.as_strided((), ()).clone().expand(self.shape) if dtype is None else None
        return whole._copy(dtype)._view(make, data)

    @property
    def held(self) -> torch.dtype | None:
        """The daemon's type, where this one is wider; else None."""
        return self.lending.held if type(self.lending) is Widened else None

    def _turn_into(self, value: Valueless) -> None:
        """Stands for the same values in the type of `value` and on its device from now on.

        Views of it keep what they had, and one that is a view itself shares no memory with its whole any more: as
        in torch, where a cast or a move has memory of its own.

        Raises:
            RuntimeError: torch has no such tensors take each other's place; nothing has changed.
        """
        before, own = self._copy(), self.dtype
        before._apart = self._apart
        self.data = value
        for known in self._views:
            if (view := known()) is not None and view._origin is not None:
                view._origin = before, view._origin[1]
                before._views.append(known)
        self._views, self._shown = [], None
        if self._origin is not None:
            whole, device = self._origin[0], value.device
            whole._views = [known for known in whole._views if known() is not self]
            self._origin = before, lambda values: values.to(device)
            before._views.append(weakref.ref(self))
        if value.dtype is not own:
            self.lending = in_another_type(self.lending, own)
        note_change()

    def _layout(self) -> torch.Tensor:
        """Returns a tensor without memory that has the strides of the values."""
        if self._origin is None:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        whole, make = self._origin
        try:
            return make(whole._layout())
        except NotImplementedError:  # it is there on another device, which changes no strides
            return whole._layout()


def root_of(weight: Valueless) -> Valueless:
    """Returns the whole that `weight` is a view of, or `weight`."""
    while weight._origin is not None:
        weight = weight._origin[0]
    return weight


def same_layout(one: Valueless, other: Valueless) -> bool:
    """Whether the values of two, of one whole, are the same: a transposed square has the shape that it had."""
    here, there = one._layout(), other._layout()
    return (here.shape, here.stride(), here.storage_offset()) == (
        there.shape,
        there.stride(),
        there.storage_offset(),
    )


def viewed(weight: Valueless, make: Callable[[torch.Tensor], Any]) -> Any:
    """Returns the view that `make` makes of `weight`, or the several views. Torch functions are off."""
    with torch.inference_mode(False):
        made = make(weight)
        if isinstance(made, torch.Tensor):
            return weight._several([(made, make)])[0]
        return tuple(weight._several([(one, partial(_one_of, make, at)) for at, one in enumerate(made)]))


def _one_of(make: Callable[[torch.Tensor], Any], at: int, whole: torch.Tensor) -> Any:
    return make(whole)[at]


def unbound(weight: Valueless, dim: int = 0) -> tuple[Valueless, ...]:
    """Returns many views, each of which can be made without the rest. Torch functions are off."""
    makes = [partial(torch.select, dim=dim, index=at) for at in range(weight.shape[dim])]
    with torch.inference_mode(False):
        return tuple(weight._several([(make(weight), make) for make in makes]))


def note_change() -> None:
    """Notes that one was taken, cast or moved, so that whoever relied on it looks again."""
    global _changes
    _changes += 1


def changes() -> int:
    """Returns how often one was taken, cast into another type, or moved to another device, in this process."""
    return _changes
