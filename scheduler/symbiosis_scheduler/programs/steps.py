"""What every function of a segment computes, and its gradient.

The forward calls the very torch functions that a model's own code calls, so a segment has the bits of the model.
The gradients are written out instead of left to autograd: they read single rows only, so what one client saved in
a batch can be used without the others, and nothing is recorded for those who never ask.

The loss has files of its own, `losses` and `slopes`.

R is rows of a batch, D any width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_core.segments import Fn, Node
from symbiosis_transports.tensors import torch_dtype

__all__ = [
    "Layer",
    "Pull",
    "Reads",
    "Step",
    "Weights",
    "linear_pull",
    "linear_step",
    "pull_of",
    "reads_of",
    "step_of",
]

Step = Callable[..., Tensor]
"""Takes the values of a node's arguments and returns its own."""
Pull = Callable[[Tensor, Sequence[Any], Any, int], Tensor]
"""Takes a node's output gradient, the values of its arguments, its own value and the number of an argument, and
returns that argument's gradient in the shape of the output. What `Reads` does not name may be missing."""


class Layer(Protocol):
    """A frozen linear."""

    def forward(self, x_RD: Tensor, out: Tensor | None) -> Tensor:
        """Applies it."""

    def backward(self, dy_RD: Tensor, out: Tensor | None) -> Tensor:
        """Passes a gradient back."""

    def columns(self, start: int, width: int) -> Layer | None:
        """Returns what computes some of its columns alone; None where that saves nothing."""


class Weights(Protocol):
    """The frozen weights that segments name."""

    def layer(self, op: int) -> Any:
        """The op of that number in the catalogue: a `Layer`, or for an embedding what has `look_up`."""

    def vector(self, name: str) -> Tensor:
        """The small tensor of that name, one-dimensional."""


class Reads(NamedTuple):
    """The values that the gradient of an argument is made of."""

    itself: bool = False
    """The argument."""
    others: bool = False
    """The other arguments."""
    out: bool = False


def step_of(node: Node, weights: Weights) -> Step:
    """Returns what computes `node`."""
    number = node.number
    if node.fn is Fn.LINEAR:
        return linear_step(weights.layer(node.op))
    if node.fn is Fn.LOOKUP:
        look_up = weights.layer(node.op).look_up
        return lambda x: look_up(x, None)
    if node.fn in _BINARY:
        function = _BINARY[node.fn]
        return function if number is None else lambda x: function(x, number)
    if node.fn is Fn.TAKE:
        start, width = node.start, node.width
        return lambda x: x.narrow(1, start, width)
    if node.fn is Fn.CAST:
        assert node.dtype is not None  # `check` saw it
        dtype = torch_dtype(node.dtype)
        return lambda x: x.to(dtype)
    if node.fn is Fn.POW:
        return lambda x: x.pow(number)
    if node.fn is Fn.LAYER_NORM:
        return lambda x, weight=None, bias=None: F.layer_norm(x, x.shape[-1:], weight, bias, number or 0.0)
    return _UNARY[node.fn]


def pull_of(node: Node, weights: Weights, width: int) -> Pull | None:
    """Returns the gradient of `node`, whose first argument is `width` wide.

    `TAKE` and what has no gradient have none.
    """
    if node.fn is Fn.MEAN:
        return lambda dy, args, out, index: dy / width
    if node.fn is Fn.LINEAR:
        return linear_pull(weights.layer(node.op))
    pull = _PULLS.get(node.fn)
    return pull and pull(node)


def linear_step(layer: Layer) -> Step:
    """Returns what applies a linear."""
    return lambda x: layer.forward(x, None)


def linear_pull(layer: Layer) -> Pull:
    """Returns the gradient of a linear, which reads nothing of the forward."""
    return lambda dy, args, out, index: layer.backward(dy, None)


def reads_of(node: Node) -> Reads:
    """Returns what the gradient of `node` reads."""
    if node.fn in (Fn.MUL, Fn.DIV) and node.number is not None:
        return Reads()
    return _READS.get(node.fn, Reads())


_BINARY: Final[dict[Fn, Callable[..., Tensor]]] = {
    Fn.ADD: torch.add,
    Fn.SUB: torch.sub,
    Fn.MUL: torch.mul,
    Fn.DIV: torch.div,
}
_UNARY: Final[dict[Fn, Step]] = {
    Fn.NEG: torch.neg,
    Fn.RSQRT: torch.rsqrt,
    Fn.SILU: F.silu,
    Fn.GELU: F.gelu,
    Fn.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Fn.RELU: torch.relu,
    Fn.SIGMOID: torch.sigmoid,
    Fn.TANH: torch.tanh,
    Fn.MEAN: lambda x: x.mean(-1, keepdim=True),
}
_READS: Final = {
    Fn.MUL: Reads(others=True),
    Fn.DIV: Reads(itself=True, others=True),
    Fn.POW: Reads(itself=True),
    Fn.SILU: Reads(itself=True),
    Fn.GELU: Reads(itself=True),
    Fn.GELU_TANH: Reads(itself=True),
    Fn.LAYER_NORM: Reads(itself=True, others=True),
    Fn.RSQRT: Reads(out=True),
    Fn.RELU: Reads(out=True),
    Fn.SIGMOID: Reads(out=True),
    Fn.TANH: Reads(out=True),
}


def _scaled(factor: float) -> Pull:
    return lambda dy, args, out, index: dy * factor


def _passed(node: Node) -> Pull:
    return lambda dy, args, out, index: dy


def _sub(node: Node) -> Pull:
    return lambda dy, args, out, index: -dy if index else dy


def _mul(node: Node) -> Pull:
    if node.number is not None:
        return _scaled(node.number)
    return lambda dy, args, out, index: dy * args[1 - index]


def _div(node: Node) -> Pull:
    if (number := node.number) is not None:
        return lambda dy, args, out, index: dy / number
    return lambda dy, args, out, index: -dy * args[0] / (args[1] * args[1]) if index else dy / args[1]


def _pow(node: Node) -> Pull:
    number = node.number
    assert number is not None  # `check` saw it
    return lambda dy, args, out, index: dy * (number * args[0].pow(number - 1))


def _layer_norm(node: Node) -> Pull:
    epsilon = node.number or 0.0

    def pull(dy: Tensor, args: Sequence[Tensor], out: Tensor, index: int) -> Tensor:
        x, weight, bias = (*args, None, None)[:3]
        assert x is not None  # it is the first of `args`
        shape = x.shape[-1:]
        _, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, epsilon)
        wanted = [True, False, False]
        dx, _, _ = torch.ops.aten.native_layer_norm_backward(dy, x, shape, mean, rstd, weight, bias, wanted)
        assert isinstance(dx, Tensor)
        return dx

    return pull


def _aten(function: Callable[..., Tensor], *, of_out: bool = False) -> Callable[[Node], Pull]:
    """Returns the rule of a function whose gradient torch has as one kernel."""
    if of_out:
        return lambda node: lambda dy, args, out, index: function(dy, out)
    return lambda node: lambda dy, args, out, index: function(dy, args[0])


_gelu: Final = torch.ops.aten.gelu_backward
_PULLS: Final[dict[Fn, Callable[[Node], Pull]]] = {
    Fn.ADD: _passed,
    Fn.SUB: _sub,
    Fn.MUL: _mul,
    Fn.DIV: _div,
    Fn.POW: _pow,
    Fn.CAST: _passed,
    Fn.NEG: lambda node: _scaled(-1.0),
    Fn.LAYER_NORM: _layer_norm,
    Fn.SILU: _aten(torch.ops.aten.silu_backward),
    Fn.GELU: _aten(lambda dy, x: _gelu(dy, x, approximate="none")),
    Fn.GELU_TANH: _aten(lambda dy, x: _gelu(dy, x, approximate="tanh")),
    Fn.RSQRT: _aten(lambda dy, out: dy * (-0.5 * out * out * out), of_out=True),
    Fn.RELU: _aten(lambda dy, out: dy * (out > 0), of_out=True),
    Fn.SIGMOID: _aten(torch.ops.aten.sigmoid_backward, of_out=True),
    Fn.TANH: _aten(torch.ops.aten.tanh_backward, of_out=True),
}
