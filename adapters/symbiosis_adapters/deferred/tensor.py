"""A tensor whose value the daemon has not been asked for yet.

A remote layer does not make its trip at once. It answers a `Deferred`: an ordinary tensor to look at (shape,
dtype, device, requires_grad), whose value is a node of a `Recording`. Row-wise frozen work on it (the functions in
`RULES`) is recorded as well. The first function that needs a value, such as an attention or a LoRA matrix, has the
whole recording computed in one trip, and from then on the tensor stands for its value. So the model's own code,
PEFT's and the user's run unmodified and decide by themselves where the border is: nothing is captured, traced or
compiled.

Values are ordinary tensors in every mode, so torch tells when one was modified. What counts for autograd is the
mode in which work was recorded, not the one in which somebody looks.

Whatever gets around `__torch_function__` (C++ code that never asks Python) finds a NaN. A gradient that reaches
the tensor itself instead of its value raises, and so does the use of one that an autograd.Function has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import Recording
from symbiosis_core.errors import UsageError

__all__ = [
    "RULES",
    "Deferred",
    "Rule",
    "changes_of",
    "defer",
    "pending",
    "read_size",
    "root_of",
    "rows_of",
    "sizes_read",
    "unmodified",
    "value_of",
    "values_in",
    "view_of",
]

Rule = Callable[[tuple[Any, ...], dict[str, Any]], Any]
RULES: Final[dict[Any, Rule]] = {}
"""What is done about a torch function: its result, or NotImplemented, which has the values computed."""

_make: Final = torch.Tensor._make_subclass
_KEPT_BLANKS: Final = 1024
_blanks: dict[tuple[tuple[int, ...], torch.dtype, torch.device], Tensor] = {}


class Deferred(torch.Tensor):
    """See the module. Made by `defer` only."""

    _recording: Recording | None
    """None: there is a value."""
    _index: int
    """Of the node."""
    _value: Tensor | None
    _viewed: Deferred | None
    """Whose value this is a view of."""
    _taken: tuple[Deferred, tuple[slice, ...]] | None = None
    """Of what these are some of the rows, and which."""
    _shape: torch.Size
    _dtype: torch.dtype
    _needs_grad: bool
    _born: int
    """The value's version when it came."""
    _changes: int = 0
    """How often it was changed in place before it had a value."""
    _rows_went: bool = False
    """Whether a frozen linear has begun a recording of its own with some of its rows."""
    _passed: bool = False
    """Whether something was computed from the node and not from the value, whose gradient is then a part."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        if rule is not None:
            result = rule(args, kwargs or {})
            if result is not NotImplemented:
                return result
        args = [values_in(arg) for arg in args]
        return func(*args, **{key: values_in(arg) for key, arg in kwargs.items()}) if kwargs else func(*args)

    def _settle(self, value: Tensor) -> None:
        """Stands for `value` from now on."""
        self._born = value._version
        self._value = value  # before the recording goes: another thread may be looking
        self._recording = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = value_of(self).__deepcopy__(memo)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return value_of(self).__reduce_ex__(protocol)


def defer(
    recording: Recording, index: int, shape: tuple[int, ...], dtype: torch.dtype, *, needs_grad: bool
) -> Deferred:
    """Returns a tensor that stands for node `index` of `recording`."""
    made = _stand_in(shape, dtype, recording.device, needs_grad)
    made._recording, made._index, made._viewed = recording, index, None
    if needs_grad:
        with torch._C.DisableTorchFunctionSubclass():
            made.register_hook(_tripwire)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return made


def view_of(x: Deferred, shape: tuple[int, ...]) -> Deferred:
    """Returns the same rows under another leading shape. `x` is pending, and the mode is that of its recording."""
    x = root_of(x)
    assert x._recording is not None  # it is pending
    made = _stand_in(shape, x._dtype, x._recording.device, x._needs_grad)
    made._recording, made._index, made._viewed = None, -1, x
    return made


def rows_of(x: Deferred, index: tuple[slice, ...]) -> Deferred:
    """Returns some rows of `x`, which is pending, in the mode of its recording. No function is recorded of them.

    To torch they are memory of `x`, so whoever wants them has the value of `x` computed, and shares it. A frozen
    linear may begin a recording of its own with them instead; see `Deferral`.
    """
    root = root_of(x)
    assert root._recording is not None  # it is pending
    shape = tuple([len(range(*each.indices(size))) for each, size in zip(index, x._shape, strict=True)])
    made = _stand_in(shape, x._dtype, root._recording.device, root._needs_grad)
    made._recording, made._index, made._viewed, made._taken = None, -1, None, (x, index)
    return made


def _stand_in(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, needs_grad: bool) -> Deferred:
    blank = _blanks.get((shape, dtype, device))
    if blank is None:
        if len(_blanks) >= _KEPT_BLANKS:
            _blanks.clear()
        with torch.inference_mode(False):
            blank = torch.full((), torch.nan, dtype=dtype, device=device).expand(shape)
        _blanks[shape, dtype, device] = blank
    made: Deferred = _make(Deferred, blank, needs_grad)
    made._value, made._shape, made._dtype, made._needs_grad = None, blank.shape, dtype, needs_grad
    return made


def pending(x: Any) -> bool:
    """Whether `x` is deferred, has no value yet, and may be recorded."""
    if type(x) is not Deferred or x._value is not None or x._taken is not None:
        return False
    return x._viewed is None or x._viewed._value is None


def value_of(x: Tensor) -> Tensor:
    """Returns the value, after the trip if there has been none."""
    if type(x) is not Deferred:
        return x
    if not x._needs_grad and torch.is_grad_enabled():
        _check_not_handed_out(x)
    value = x._value
    if value is None:
        viewed, taken, recording = x._viewed, x._taken, x._recording
        if viewed is not None:
            return _view_value(x, value_of(viewed))
        if taken is not None:
            return _rows_value(x, *taken)
        if recording is not None:  # else another thread was faster
            recording.force(x)
        value = x._value
        assert value is not None  # force has set it or raised
    return value


def _view_value(x: Deferred, whole: Tensor) -> Tensor:
    if x._needs_grad:
        with torch.inference_mode(False), torch.enable_grad():
            value = whole.view(x._shape)
    else:
        value = whole.view(x._shape)
    x._settle(value)
    x._passed = root_of(x)._passed
    x._viewed = None
    return value


def _rows_value(x: Deferred, whole: Deferred, index: tuple[slice, ...]) -> Tensor:
    value = value_of(whole)
    if x._needs_grad:
        with torch.inference_mode(False), torch.enable_grad():
            value = value[index]
    else:
        value = value[index]
    x._settle(value)
    x._passed = x._passed or root_of(whole)._passed
    x._taken = None
    return value


_sizes_read = 0


def read_size() -> None:
    """Notes that somebody asked a deferred tensor for its size: what he does may depend on it."""
    global _sizes_read
    _sizes_read += 1


def sizes_read() -> int:
    """Returns how often anybody has asked."""
    return _sizes_read


def root_of(x: Deferred) -> Deferred:
    """Returns what `x` is a view of, or `x`. (A tensor has no truth value, so `or` would not do.)"""
    return x if x._viewed is None else x._viewed


def changes_of(x: Deferred) -> int:
    """Returns how often `x` was changed in place before it had a value."""
    return root_of(x if x._taken is None else x._taken[0])._changes


def unmodified(x: Deferred) -> bool:
    """Whether the value of `x`, if it has one, is what it was when it came."""
    root = root_of(x if x._taken is None else x._taken[0])
    value = root._value
    return value is None or value._version == root._born


def values_in(arg: Any) -> Any:
    """Returns `arg` with values in place of deferred tensors, in lists, tuples and dicts too."""
    kind = type(arg)
    if kind is Deferred:
        return value_of(arg)
    if isinstance(arg, tuple):  # a named one becomes a plain one: functions of torch do not ask
        return tuple([values_in(each) for each in arg])
    if isinstance(arg, list):
        return [values_in(each) for each in arg]
    if kind is dict:
        return {key: values_in(each) for key, each in arg.items()}
    return arg


def _check_not_handed_out(x: Deferred) -> None:
    """Raises if an autograd.Function has returned `x`: then torch tracks the stand-in and not the value."""
    with torch._C.DisableTorchFunctionSubclass():
        if not x.requires_grad:
            return
    raise UsageError(
        "an autograd.Function (reentrant checkpointing is one) returned a deferred tensor, and its gradient would "
        "be lost; return x.clone(), or checkpoint with use_reentrant=False, or load the model with cut='siblings'"
    )


def _tripwire(grad: Tensor) -> None:
    raise UsageError(
        "a gradient reached the stand-in of a deferred tensor: code went around torch's functions, such as a C++ "
        "extension. Pass it x.clone(), or load the model with cut='siblings'"
    )
