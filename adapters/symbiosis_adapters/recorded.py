"""Which torch functions on a deferred tensor are recorded, and as what. Everything else has the value computed.

A rule returns NotImplemented wherever it is not sure: computing the value is always right, and costs a trip. So a
rule covers what decoder models write between two attentions (norms, activations, residuals, casts, the loss) and
nothing for the sake of completeness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferral import Deferral, Operand
from symbiosis_adapters.deferred import RULES, Deferred, Rule, pending, read_size, root_of, value_of, view_of
from symbiosis_adapters.recording import DTYPES, NodeKey, Recording
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType, Plane

__all__ = ["install_rules"]

_RULES: dict[Any, Rule] = {}


def install_rules() -> None:
    """Has the rules of this module applied to deferred tensors."""
    RULES.update(_RULES)


def _records(*functions: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for function in functions:
            _RULES[function] = rule
        return rule

    return register


def _deferral(recording: Recording) -> Deferral:
    forcing = recording.forcing
    assert isinstance(forcing, Deferral)
    return forcing


# -- questions about a tensor, which need no value -----------------------------------------------------------


def _getter(name: str) -> Any:
    return getattr(Tensor, name).__get__


@_records(_getter("shape"), Tensor.size)
def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not pending(args[0]):
        return NotImplemented
    read_size()
    shape = args[0]._shape
    return shape[args[1]] if len(args) > 1 and type(args[1]) is int else NotImplemented if kwargs else shape


@_records(_getter("dtype"))
def _dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]._dtype if pending(args[0]) else NotImplemented


@_records(_getter("requires_grad"))
def _requires_grad(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]._needs_grad if pending(args[0]) else NotImplemented


@_records(_getter("ndim"), Tensor.dim)
def _dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    read_size()
    return len(args[0]._shape) if pending(args[0]) else NotImplemented


@_records(Tensor.numel)
def _numel(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    read_size()
    return args[0]._shape.numel() if pending(args[0]) else NotImplemented


def _ask_stand_in(function: Any) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args or not pending(args[0]):
            return NotImplemented
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)

    return rule


for _question in (
    *(_getter(name) for name in ("device", "layout", "is_cpu", "is_cuda", "is_sparse", "is_meta", "is_quantized")),
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_complex,
    torch.is_complex,
    Tensor.element_size,
    Tensor.get_device,
):
    _RULES[_question] = _ask_stand_in(_question)


# -- questions about its gradient ----------------------------------------------------------------------------


@_records(Tensor.retain_grad, Tensor.register_hook)
def _watch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _check_whole(args[0])
    return NotImplemented


@_records(torch.autograd.grad, torch.autograd.backward, Tensor.backward)
def _differentiate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    inputs = kwargs.get("inputs", args[1] if len(args) > 1 else None)
    for each in inputs if isinstance(inputs, tuple | list) else (inputs,):
        _check_whole(each)
    return NotImplemented


def _check_whole(x: Any) -> None:
    """Raises if the gradient of `x` is not where torch would look for it."""
    if type(x) is not Deferred:
        return
    value_of(x)
    if x._passed:
        raise UsageError(
            "the gradient of a deferred tensor was asked for after frozen layers had used the tensor, which "
            "they did in the daemon; ask before (retain_grad() in a forward hook), or load with cut='siblings'"
        )


# -- the same rows -------------------------------------------------------------------------------------------


@_records(Tensor.contiguous)
def _contiguous(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if len(args) == 1 and not kwargs and pending(args[0]) else NotImplemented


@_records(F.dropout)
def _dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    idle = not said.get("training", True) or said.get("p", 0.5) == 0
    return said["input"] if idle and pending(said["input"]) else NotImplemented


@_records(Tensor.view, Tensor.reshape)
def _view(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new leading shape over the same rows; anything that touches the columns needs the value."""
    x = args[0]
    if kwargs or not pending(x) or not _may_view(x):
        return NotImplemented
    sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if not sizes or not all(type(size) is int for size in sizes) or sizes[-1] != x._shape[-1]:
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        shape = Tensor.view(x, *sizes).shape
    return x if shape == x._shape else view_of(x, shape)


@_records(Tensor.__getitem__)
def _getitem(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """All rows, or the last of one: what remains is the tensor itself."""
    x, index = args
    if not pending(x) or not _may_view(x):
        return NotImplemented
    kept = index if isinstance(index, tuple) else (index,)
    if kept and kept[-1] is Ellipsis:
        kept = kept[:-1]
    if len(kept) > len(x._shape) or not all(type(each) is slice for each in kept):
        return NotImplemented
    whole = all(each.indices(size) == (0, size, 1) for each, size in zip(kept, x._shape, strict=False))
    return x if whole else NotImplemented


def _may_view(x: Deferred) -> bool:
    """Whether a view made now would have the gradient that `x` has."""
    recording = root_of(x)._recording
    return recording is not None and recording.mode.grad == torch.is_grad_enabled()


# -- functions of one value ----------------------------------------------------------------------------------


def _unary(x: Any, fn: str, *, width: int = 0, dtype: int = 0, start: int = 0, number: float | None = None) -> Any:
    """Records a function of one pending tensor. `width` and `dtype` are the result's where they change."""
    if not pending(x) or not x._dtype.is_floating_point:
        return NotImplemented
    found = _start(x)
    if found is None:
        return NotImplemented
    recording, operand = found
    plane = Plane(width or operand.plane.width, DType(dtype) if dtype else operand.plane.dtype)
    node = NodeKey(fn, (operand.ref,), number=number, start=start, width=width if fn == "take" else 0, dtype=dtype)
    return _deferral(recording).add(recording, node, plane, x._shape[:-1], [operand])


def _start(x: Deferred) -> tuple[Recording, Operand] | None:
    root = root_of(x)
    assert root._recording is not None  # it is pending
    recording = _deferral(root._recording).recording_of(root)
    if recording is None:
        return None
    return recording, Operand(root._index, recording.planes[root._index], root._needs_grad)


def _plain_unary(fn: str) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) != 1 or any(kwargs.values()):  # inplace=False may be said
            return NotImplemented
        return _unary(args[0], fn)

    return rule


_UNARY: dict[str, tuple[Any, ...]] = {
    "neg": (torch.neg, Tensor.neg, Tensor.__neg__),
    "rsqrt": (torch.rsqrt, Tensor.rsqrt),
    "silu": (F.silu,),
    "relu": (F.relu, torch.relu, Tensor.relu),
    "sigmoid": (torch.sigmoid, Tensor.sigmoid, F.sigmoid),
    "tanh": (torch.tanh, Tensor.tanh, F.tanh),
}
for _fn, _functions in _UNARY.items():
    _records(*_functions)(_plain_unary(_fn))


@_records(F.gelu)
def _gelu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "approximate"), args, strict=False)) | kwargs
    fn = {"none": "gelu", "tanh": "gelu_tanh"}.get(said.get("approximate", "none"))
    return NotImplemented if fn is None else _unary(said["input"], fn)


@_records(torch.pow, Tensor.pow, Tensor.__pow__)
def _pow(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs or len(args) != 2 or not _is_number(args[1]) or args[1] == 0:
        return NotImplemented
    return _unary(args[0], "pow", number=args[1])


@_records(torch.square, Tensor.square)
def _square(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NotImplemented if kwargs or len(args) != 1 else _unary(args[0], "pow", number=2)


@_records(torch.mean, Tensor.mean)
def _mean(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "dim", "keepdim"), args, strict=False)) | kwargs
    x = said.pop("input", None)
    if not pending(x) or set(said) != {"dim", "keepdim"} or not said["keepdim"]:
        return NotImplemented
    if said["dim"] not in (-1, (-1,), [-1], len(x._shape) - 1):
        return NotImplemented
    return _unary(x, "mean", width=1)


@_records(Tensor.to)
def _to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A cast; moving to another device needs the value."""
    if len(args) == 1 and set(kwargs) == {"dtype"}:
        return _cast(args[0], kwargs["dtype"])
    if kwargs or len(args) != 2:
        return NotImplemented
    x, target = args
    if isinstance(target, Tensor):
        return NotImplemented
    if isinstance(target, torch.dtype):
        return _cast(x, target)
    return x if type(x) is Deferred and torch.device(target) == x.device and pending(x) else NotImplemented


@_records(Tensor.float)
def _float(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NotImplemented if kwargs else _cast(args[0], torch.float32)


@_records(Tensor.type_as)
def _type_as(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, other = args
    if type(x) is not Deferred or x.device != other.device:
        return NotImplemented
    return _cast(x, other.dtype)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    if type(x) is not Deferred or not pending(x):
        return NotImplemented
    if x._dtype is dtype:
        return x
    code = DTYPES.get(dtype)
    if code is None or not code.is_floating:
        return NotImplemented
    return _unary(x, "cast", dtype=int(code))


@_records(torch.chunk, Tensor.chunk)
def _chunk(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(("input", "chunks", "dim"), args, strict=False)) | kwargs
    x, chunks = said["input"], said["chunks"]
    if not pending(x) or not _may_view(x) or chunks < 1 or said.get("dim", 0) not in (-1, len(x._shape) - 1):
        return NotImplemented
    size = math.ceil(x._shape[-1] / chunks)
    starts = range(0, x._shape[-1], size)
    parts = [_unary(x, "take", start=start, width=min(size, x._shape[-1] - start)) for start in starts]
    return NotImplemented if any(part is NotImplemented for part in parts) else tuple(parts)


# -- functions of two values ---------------------------------------------------------------------------------


def _binary(fn: str) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs or len(args) != 2:
            return NotImplemented
        return _record_binary(fn, args[0], args[1])

    return rule


def _record_binary(fn: str, a: Any, b: Any) -> Any:
    a, b = _number(a, beside=b), _number(b, beside=a)
    if _is_number(b):
        return _unary(a, fn, number=b)
    if _is_number(a):
        return _unary(b, fn, number=a) if fn in ("add", "mul") else NotImplemented
    first = a if pending(a) else b
    if not pending(first) or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return NotImplemented
    found = _start(first)
    if found is None:
        return NotImplemented
    recording, known = found
    deferral, lead = _deferral(recording), first._shape[:-1]
    operands = []
    for each in (a, b):
        operand = known if each is first else deferral.operand(recording, each, lead)
        if operand is None:
            return NotImplemented
        operands.append(operand)
    plane = _meet(operands[0].plane, operands[1].plane)
    if plane is None:
        return NotImplemented
    node = NodeKey(fn, (operands[0].ref, operands[1].ref))
    return deferral.add(recording, node, plane, lead, operands)


def _number(x: Any, beside: Any) -> Any:
    """Returns what a tensor without dimensions holds, such as the factor of some embeddings; else `x` itself.

    It meets every column and changes no type, as a number does. It may be changed later, so no passage keeps it.
    """
    scalar = type(x) is Tensor and not x.ndim and x.is_cpu and x.dtype.is_floating_point and not x.requires_grad
    recording = root_of(beside)._recording if scalar and pending(beside) else None
    if recording is None or _deferral(recording).is_observed:
        return x
    read_size()
    return x.item()


def _meet(a: Plane, b: Plane) -> Plane | None:
    """Returns the plane of two that meet column by column, as torch promotes them."""
    if a.width != b.width and 1 not in (a.width, b.width):
        return None
    if a.dtype == b.dtype:
        dtype = a.dtype
    else:
        dtype = DType.FLOAT64 if DType.FLOAT64 in (a.dtype, b.dtype) else DType.FLOAT32
    return Plane(max(a.width, b.width), dtype)


_BINARY: dict[str, tuple[Any, ...]] = {
    "add": (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    "sub": (torch.sub, Tensor.sub, Tensor.__sub__),
    "mul": (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    "div": (torch.div, Tensor.div, Tensor.__truediv__, torch.true_divide),
}
for _fn, _functions in _BINARY.items():
    _records(*_functions)(_binary(_fn))


@_records(Tensor.__iadd__, Tensor.add_)
def _add_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor stands for the sum from now on, for everybody who has it."""
    x = args[0]
    if kwargs or len(args) != 2 or not pending(x) or x._viewed is not None or args[1] is x:
        return NotImplemented
    summed = _record_binary("add", x, args[1])
    if summed is NotImplemented:
        return NotImplemented
    return x if _deferral(summed._recording).replace(x, summed) else NotImplemented


@_records(F.layer_norm)
def _layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    said = dict(zip(names, args, strict=False)) | kwargs
    x, weight, bias = said["input"], said.get("weight"), said.get("bias")
    if (
        not pending(x)
        or tuple(said["normalized_shape"]) != (x._shape[-1],)
        or (weight is None and bias is not None)
    ):
        return NotImplemented
    found = _start(x)
    if found is None:
        return NotImplemented
    recording, rows = found
    deferral, lead = _deferral(recording), x._shape[:-1]
    operands = [rows]
    for vector in (weight, bias):
        operand = None if vector is None else deferral.operand(recording, vector, lead)
        if vector is not None and (operand is None or not operand.frozen or operand.plane != rows.plane):
            return NotImplemented
        operands += [] if operand is None else [operand]
    refs = tuple([operand.ref for operand in operands])
    node = NodeKey("layer_norm", refs, number=said.get("eps", 1e-5))
    return deferral.add(recording, node, rows.plane, lead, operands)


# -- the loss ------------------------------------------------------------------------------------------------


_CROSS_ENTROPY = (
    "input",
    "target",
    "weight",
    "size_average",
    "ignore_index",
    "reduce",
    "reduction",
    "label_smoothing",
)


@_records(F.cross_entropy)
def _cross_entropy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The loss of every row is computed with the logits, which then never cross; their sum is taken here."""
    said = dict(zip(_CROSS_ENTROPY, args, strict=False)) | kwargs
    logits, target = said.pop("input"), value_of(said.pop("target"))
    reduction, ignored = said.pop("reduction", "mean"), said.pop("ignore_index", -100)
    plain = said.pop("label_smoothing", 0.0) == 0.0 and all(value is None for value in said.values())
    if not plain or reduction not in ("mean", "sum", "none") or not pending(logits):
        return NotImplemented
    if len(logits._shape) != 2 or target.dtype is not torch.int64 or target.shape != logits._shape[:1]:
        return NotImplemented
    found = _start(logits)
    if found is None:
        return NotImplemented
    recording, rows = found
    targets = Operand(recording.input(target), Plane(1, DType.INT64), needs_grad=False)
    node = NodeKey("cross_entropy", (rows.ref, targets.ref), start=ignored)
    made = _deferral(recording).add(recording, node, Plane(1, rows.plane.dtype), target.shape, [rows, targets])
    losses = value_of(made).squeeze(-1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (target != ignored).sum()


def _is_number(value: Any) -> bool:
    return type(value) is float or type(value) is int
