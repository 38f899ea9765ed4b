"""What stands where a frozen weight would: its shape, dtype and device, and its values only where they are lent.

PEFT, accelerate and transformers ask a base weight for `shape`, `dtype`, `device` and `numel()`, and put adapters
where it is; on the meta device they would put them there too, which fails in backward. So a placeholder is on a
real device: one element, expanded with stride 0. It answers questions about itself, and can be moved, viewed and
copied. That of a module is a parameter, and a view or a copy of it is a tensor, as with torch's own. What needs
its values is one of two things:

- A function that only computes something new of them (`questions.READS`: DoRA's norm, PiSSA's decomposition) gets
  the lent values for this once. The placeholder stays one, and the daemon goes on computing the layer.
- Anything else may write to them, keep them or train them. Then the placeholder is *taken*: it becomes an ordinary
  parameter over memory of this process's own, and so do the views of it that led there. A layer with a taken
  weight is computed here (`RemoteLayer`), for nobody can know what its weight holds now.

Where the daemon does not lend, either is refused, naming the layer, the operation and whose code it is; but rows
times a weight are what the daemon computes anyway (`factors`), and a bias is what its op makes of zeros. What gets
around all that (C++ code that never asks Python) finds a NaN: silently wrong numbers are the worst of outcomes.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from torch import nn

from symbiosis_adapters.trips.widening import widens
from symbiosis_adapters.weights.factors import PRODUCTS, Factor, Multiplier, product
from symbiosis_adapters.weights.indexing import basic_index
from symbiosis_adapters.weights.lenders import NOBODY, Lending, Widened
from symbiosis_adapters.weights.questions import (
    ADDRESSES,
    MOVES,
    PATTERNS,
    QUESTIONS,
    READS,
    SHOWS,
    STRIDES,
    VIEWS,
    WRITES_FIRST,
)
from symbiosis_adapters.weights.refusals import LEND, RETYPE, asker, described, refusal
from symbiosis_core.errors import DaemonGoneError, RefusedError, RemoteProtocolError

__all__ = ["FrozenWeight", "changes", "lent_copy", "take", "withheld"]


_STAYS: Final = (
    "The base stays in {held} in the daemon, for all its clients: rows for its layers are rounded to that, and "
    "their answers come as {wide}. For more precision attach to a daemon that was started with --dtype float32"
)

_changes = 0
_told: Final[weakref.WeakSet[Lending]] = weakref.WeakSet()
"""Of whose weights it was said that they stay what they are."""


if TYPE_CHECKING:  # which knows classes, and not torch's mark
    _Tensor = nn.Parameter
else:
    _Tensor = torch.Tensor


class FrozenWeight(_Tensor):
    """A parameter without values. `label` says whose it is: `model.layers.0.self_attn.q_proj.weight`."""

    _is_param: bool = False
    """Torch's own mark: whether `isinstance` takes it for an nn.Parameter."""
    label: str
    lending: Lending | None
    """Who has the values; None: nobody."""
    multiplier: Multiplier | None = None
    """Of a linear's weight: what multiplies rows by it."""
    computed: Callable[[], torch.Tensor] | None = None
    """Makes the values out of what the daemon computes, for who may not have them: a bias can be had so."""
    _origin: tuple[FrozenWeight, Callable[[torch.Tensor], torch.Tensor]] | None
    """Of what this is a view, and how it is made."""
    _views: list[weakref.ref[FrozenWeight]]
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
    ) -> FrozenWeight:
        """Returns a placeholder that is a parameter; it takes the memory of one element."""
        with torch.inference_mode(False):  # it may become a parameter that outlives the mode
            data = torch.full((), torch.nan, dtype=dtype, device=device).expand(*shape)
            made = cls._guard(data, label, lending, None)
        made._is_param = True
        return made

    @classmethod
    def _guard(cls, data: torch.Tensor, label: str, lending: Lending | None, origin: Any) -> FrozenWeight:
        weight = torch.Tensor._make_subclass(cls, data, False)
        weight.label, weight.lending, weight._origin, weight._views = label, lending, origin, []
        return weight

    def _view(
        self, make: Callable[[torch.Tensor], torch.Tensor], data: torch.Tensor | None = None
    ) -> FrozenWeight:
        """Returns the placeholder of a view. Torch functions are off.

        `data` is what it shows: one element, where `make` would write out as many as there seem to be.
        """
        with torch.inference_mode(False):
            return self._several([(make(self) if data is None else data, make)])[0]

    def _several(
        self, made: Iterable[tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]
    ) -> list[FrozenWeight]:
        views = [self._guard(data, self.label, self.lending, (self, make)) for data, make in made]
        living = [known for known in self._views if known() is not None]
        self._views = living + [weakref.ref(view) for view in views]
        return views

    def _copy(self, dtype: torch.dtype | None = None) -> FrozenWeight:
        """Returns a placeholder that shares no memory with this one if it is taken. Torch functions are off.

        With a `dtype` that is another: the values in that one, see `_castable`.
        """
        if self._origin is None:
            wanted = dtype or self.dtype
            lending = self.lending if wanted is self.dtype else self._lending_in(wanted)
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

    def _castable(self, dtype: torch.dtype) -> bool:
        """Whether there may be a placeholder for the values in that type: wider, or the daemon's own again."""
        return dtype is self.held or widens(self.dtype, dtype)

    def _lending_in(self, dtype: torch.dtype) -> Lending:
        lending = self.lending or NOBODY
        return lending.narrow if isinstance(lending, Widened) else Widened(lending, self.dtype)

    def _cast(self, dtype: torch.dtype) -> None:
        """Stands for the values in another type from now on. Views of it keep the one they had."""
        global _changes
        before = self._copy()
        before._apart = self._apart
        for known in self._views:
            if (view := known()) is not None and view._origin is not None:
                view._origin = before, view._origin[1]
                before._views.append(known)
        self._views, self._shown = [], None
        self.lending = self._lending_in(dtype)
        self.data = torch.full((), torch.nan, dtype=dtype, device=self.device).expand(self.shape)
        _changes += 1

    def _layout(self) -> torch.Tensor:
        """Returns a tensor without memory that has the strides of the values. Torch functions are off."""
        if self._origin is None:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        whole, make = self._origin
        try:
            return make(whole._layout())
        except NotImplementedError:  # it is there on another device, which changes no strides
            return whole._layout()

    def _read(self) -> torch.Tensor:
        """Returns the lent values, for a function that only reads them. Torch functions are off."""
        return self._as_held().to(self.dtype)

    def _as_held(self) -> torch.Tensor:
        """Returns the lent values before a cast of the whole weight, so that only what is wanted of it is cast."""
        if self._shown is not None:
            return self._shown
        if self._origin is not None:
            whole, make = self._origin
            return make(whole._as_held() if whole.dtype is self.dtype else whole._read())
        if self.computed is not None and (self.lending or NOBODY).withheld:
            return self.computed().to(self.device)
        try:
            return self._checked(_lender(self).frozen(self.label), self.held or self.dtype)
        except RefusedError:
            if self.computed is None:
                raise
            return self.computed().to(self.device)

    def _lasting(self) -> torch.Tensor:
        """Returns the lent values where they stay, for who asks for their address. Torch functions are off.

        What was cast or moved has none until then, and views of one weight lie in the same memory. A copy does
        not: whoever saves tied weights clones all but one, for a file may not hold one memory twice. It costs
        none, for it is another mapping of the same pages.
        """
        if self._shown is None:
            if self._origin is not None:
                self._shown = self._origin[1](self._origin[0]._lasting())
            elif self._apart:
                self._shown = self._checked((self.lending or NOBODY).private(self.label), self.dtype)
            else:
                self._shown = self._read()
        return self._shown

    def _factor(self) -> Factor | None:
        """Returns what this is in a product that the daemon can compute. Torch functions are off."""
        if self._origin is None:
            return None if self.multiplier is None else self.multiplier.factor()
        whole, make = self._origin
        factor = whole._factor()
        return None if factor is None else factor.seen(make)

    def _become(self, values: torch.Tensor, kind: type[torch.Tensor]) -> None:
        views = [view for known in self._views if (view := known()) is not None]
        self.data = values
        self.__class__ = kind  # type: ignore[assignment]  # modules and optimizers hold this very object
        for view in views:
            assert view._origin is not None  # it is a view
            view._become(view._origin[1](self), kind)
        for attribute in ("label", "lending", "multiplier", "computed", "_origin", "_views", "_shown", "_apart"):
            vars(self).pop(attribute, None)

    def _checked(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if (values.shape, values.dtype) != (self.shape, dtype):
            raise RemoteProtocolError(
                f"the daemon lent {self.label} as {tuple(values.shape)} {values.dtype}, "
                f"not {tuple(self.shape)} {dtype}"
            )
        return values.to(self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if id(self) not in memo:
            with torch._C.DisableTorchFunctionSubclass():
                memo[id(self)] = self._copy()
                memo[id(self)]._is_param = self._is_param
        copied: Self = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        values = _with_values(self, "saving or pickling it", LEND)
        return nn.Parameter(values, requires_grad=False).__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"FrozenWeight({self.label}, {tuple(self.shape)}, {self.dtype}, device={self.device})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        name = getattr(func, "__name__", str(func))
        first = args[0] if args else None
        with torch._C.DisableTorchFunctionSubclass():
            if name == "__get__" and (found := _get(func, *args)) is not NotImplemented:
                return found
            if name == "__set__" and _set(func, *args):
                return None
            if name in STRIDES and isinstance(first, FrozenWeight):
                return func(first._layout(), *args[1:], **named)
            if name in QUESTIONS or (name in PATTERNS and not isinstance(first, FrozenWeight)):
                return func(*args, **named)
            if name == "unbind" and isinstance(first, FrozenWeight):
                return _unbound(first, *args[1:], **named)
            if name in VIEWS and isinstance(first, FrozenWeight):
                return _view(first, lambda whole: func(whole, *args[1:], **named))
            if name == "__getitem__" and isinstance(first, FrozenWeight) and (at := basic_index(args[1])):
                return _view(first, lambda whole: func(whole, at))
            if name == "contiguous" and isinstance(first, FrozenWeight) and first._layout().is_contiguous():
                return first
            if name in MOVES and isinstance(first, FrozenWeight):
                return _move(func, first, args[1:], named)
            if name == "requires_grad_" and False in (*args[1:], *named.values()):
                return first
        reads = _only_reads(name, first, named)
        whole = not isinstance(first, FrozenWeight) or first._origin is None
        attempt, remedy = described(func, name, reads, whole)
        if reads:
            if name in PRODUCTS and (computed := _product(name, args, named, attempt)) is not NotImplemented:
                return computed
            if name in ADDRESSES and isinstance(first, FrozenWeight):
                return func(_values(first, attempt, remedy, FrozenWeight._lasting))
            args, named = _with_values(args, attempt, remedy), _with_values(named, attempt, remedy)
            return _unwritable(func(*args, **named)) if name in SHOWS else func(*args, **named)
        for weight in _each(first if name in WRITES_FIRST else (args, named)):
            if isinstance(weight, FrozenWeight):  # one before may have been a view of it
                take(weight, attempt, remedy)
        if name in WRITES_FIRST:
            args, named = _with_values(args, attempt, remedy), _with_values(named, attempt, remedy)
        return func(*args, **named)  # with nothing but ordinary tensors, or with others that have a say


def take(weight: FrozenWeight, attempt: str, remedy: str = LEND) -> None:
    """Makes a placeholder, in place, an ordinary parameter over memory of this process's own.

    What it is a view of is taken with it, and so are all other views of that.

    Raises:
        UsageError: the daemon does not lend. `attempt` says what the values were wanted for.
    """
    global _changes
    root = _root(weight)
    lending = root.lending or NOBODY
    _changes += 1
    with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(False), torch.no_grad():
        values = _lent(root, attempt, remedy, lambda: root._checked(lending.private(root.label), root.dtype))
        root._become(values, nn.Parameter if root._is_param else torch.Tensor)
    if root._is_param:  # a copy is no layer's
        lending.takes.note(values.nbytes, asker())


def lent_copy(weight: FrozenWeight) -> torch.Tensor | None:
    """Returns the values in memory that nobody else has; None where they cannot be had, which is tried only once.

    The placeholder stays one.
    """
    lending = weight.lending or NOBODY
    if lending.withheld:
        return None
    root = _root(weight)
    with torch._C.DisableTorchFunctionSubclass(), contextlib.suppress(RefusedError, DaemonGoneError):
        return root._checked(lending.private(root.label), root.dtype) if root is weight else weight._read().clone()
    return None


def changes() -> int:
    """Returns how often a placeholder was taken, or cast into another type, in this process."""
    return _changes


def _get(func: Any, weight: FrozenWeight, *_: Any) -> Any:
    """Reads a property. Whatever tensor it gives (`data`, `T`) is a placeholder again."""
    if func.__self__.__name__.startswith("__"):  # the array interfaces
        return NotImplemented
    value = func(weight)
    return weight._view(func) if isinstance(value, torch.Tensor) else value


def _set(func: Any, target: Any, value: Any) -> bool:
    """Sets a property, if that changes no value and asks for no gradient."""
    attribute = func.__self__.__name__
    if not isinstance(target, FrozenWeight):
        return False
    if attribute == "data":
        if isinstance(value, torch.Tensor) and value.dtype != target.dtype:
            if not _is_cast_of(value, target):
                raise refusal(target.label, f"converting it to {value.dtype}", RETYPE)
            if widens(target.dtype, value.dtype) and _lender(target) not in _told:
                _told.add(_lender(target))
                warnings.warn(_STAYS.format(held=target.dtype, wide=value.dtype), UserWarning, stacklevel=3)
            target._cast(value.dtype)
            return True
        return isinstance(value, FrozenWeight) and _root(value) is _root(target) and _same_layout(value, target)
    if not (value is None or (attribute == "requires_grad" and not value)):
        return False
    func(target, value)
    return True


def _is_cast_of(value: torch.Tensor, target: FrozenWeight) -> bool:
    """Whether `value` stands for the values of `target` in another type."""
    if not isinstance(value, FrozenWeight) or target._origin is not None or not target._castable(value.dtype):
        return False
    root = _root(value)
    same = root.label == target.label and _lender(root) is _lender(target)
    return same and _same_layout(value, target)


def _lender(weight: FrozenWeight) -> Lending:
    """Returns who has the values in the daemon's own type."""
    lending = weight.lending or NOBODY
    return lending.narrow if isinstance(lending, Widened) else lending


def _same_layout(one: FrozenWeight, other: FrozenWeight) -> bool:
    """Whether the values of two stand in the same order; a transposed square has the shape that it had."""
    return one.shape == other.shape and one._layout().stride() == other._layout().stride()


def _move(func: Any, weight: FrozenWeight, args: Any, kwargs: dict[str, Any]) -> Any:
    """Does to the one element what was asked for the whole."""
    with torch.inference_mode(False):
        moved = func(weight.as_strided((), ()), *args, **kwargs)
    if not isinstance(moved, torch.Tensor):  # type() without an argument
        return moved
    data = moved.expand(weight.shape)
    if moved.dtype != weight.dtype:
        if withheld(weight) and weight._factor() is not None:  # whoever multiplies by it casts it before
            return weight._view(lambda whole: func(whole, *args, **kwargs), data)
        if weight._castable(moved.dtype):
            cast = weight._copy(moved.dtype)
            cast._is_param = False
            device = moved.device
            return cast if device == weight.device else cast._view(lambda whole: whole.to(device), data)
        return _lent(
            weight, f"converting it to {moved.dtype}", RETYPE, lambda: func(weight._read(), *args, **kwargs)
        )
    if func in (torch.Tensor.clone, torch.clone):
        copied = weight._copy()
        copied._is_param = False
        return copied
    if moved.device == weight.device:
        return weight
    return weight._view(lambda whole: func(whole, *args, **kwargs), data)


def _view(weight: FrozenWeight, make: Callable[[torch.Tensor], Any]) -> Any:
    """Returns the placeholder of a view, or those of several."""
    with torch.inference_mode(False):
        made = make(weight)
        if isinstance(made, torch.Tensor):
            return weight._several([(made, make)])[0]
        return tuple(weight._several([(one, partial(_one_of, make, at)) for at, one in enumerate(made)]))


def _unbound(weight: FrozenWeight, dim: int = 0) -> tuple[FrozenWeight, ...]:
    """Returns the placeholders of many views, each of which can be made without the rest."""
    makes = [partial(torch.select, dim=dim, index=at) for at in range(weight.shape[dim])]
    with torch.inference_mode(False):
        return tuple(weight._several([(make(weight), make) for make in makes]))


def _one_of(make: Callable[[torch.Tensor], Any], at: int, whole: torch.Tensor) -> Any:
    return make(whole)[at]


def _product(name: str, args: Any, kwargs: dict[str, Any], attempt: str) -> Any:
    """Returns a product with a weight that is not lent; NotImplemented where the values serve, or must."""
    place = PRODUCTS[name]
    matrix = args[place] if len(args) > place else None
    if not isinstance(matrix, FrozenWeight) or not withheld(matrix):
        return NotImplemented
    if isinstance(args[place - 1], FrozenWeight) or (factor := matrix._factor()) is None:
        return NotImplemented
    before, after, named = [
        _with_values(each, attempt, LEND) for each in (args[:place], args[place + 1 :], kwargs)
    ]
    return product(name, (*before, factor, *after), named, matrix.dtype)


def withheld(weight: FrozenWeight) -> bool:
    """Whether the values cannot be had; asks where nobody has asked yet."""
    lending = weight.lending or NOBODY
    if not lending.withheld:
        try:
            _lender(weight).frozen(_root(weight).label)
        except RefusedError:
            return True
    return lending.withheld


def _unwritable(shown: Any) -> Any:
    """Returns what shows lent values; an array of them may not be written to."""
    if isinstance(shown, np.ndarray):
        shown.flags.writeable = False
    return shown


def _only_reads(name: str, first: Any, kwargs: dict[str, Any]) -> bool:
    if any(True for _ in _each(kwargs.get("out"))):
        return False
    if name in WRITES_FIRST:
        return not any(True for _ in _each(first))
    return name in READS or name in SHOWS


def _with_values(values: Any, attempt: str, remedy: str) -> Any:
    """Returns `values` with lent ones in the place of placeholders, in tuples, lists and dicts too."""
    if isinstance(values, FrozenWeight):
        return _values(values, attempt, remedy, FrozenWeight._read)
    if isinstance(values, dict):
        return {key: _with_values(each, attempt, remedy) for key, each in values.items()}
    if type(values) in (tuple, list):
        return type(values)([_with_values(each, attempt, remedy) for each in values])
    return values


def _values(weight: FrozenWeight, attempt: str, remedy: str, read: Callable[[FrozenWeight], torch.Tensor]) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return _lent(weight, attempt, remedy, partial(read, weight))


def _each(values: Any) -> Iterator[torch.Tensor]:
    """Yields the placeholders in `values`."""
    if isinstance(values, FrozenWeight):
        yield values
    elif isinstance(values, tuple | list):
        for each in values:
            yield from _each(each)
    elif isinstance(values, dict):
        yield from _each(list(values.values()))


def _root(weight: FrozenWeight) -> FrozenWeight:
    while weight._origin is not None:
        weight = weight._origin[0]
    return weight


def _lent(weight: FrozenWeight, attempt: str, remedy: str, action: Callable[[], Any]) -> Any:
    """Does what needs the values, or says why that is not possible."""
    try:
        return action()
    except RefusedError as error:
        raise refusal(weight.label, attempt, remedy, error) from None
