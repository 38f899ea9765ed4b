"""A captured decode step: the model's forward as one graph, without its Python.

A token costs a client some twenty thousand calls of Python functions, in transformers, in PEFT and in here: the
largest part of its time. torch.compile can trace a whole forward into a graph, guarded by all that the trace
depended on; `cutting` makes trips of what is frozen in it, and what is left runs without the modules.

Tracing takes seconds, so it is asked for (`model.symbiosis.capture()`), and it is done for decode steps only: one
position, no gradient, eval mode. Everything else is computed as ever.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from transformers import PreTrainedModel

from symbiosis_adapters.captured_op import enroll
from symbiosis_adapters.cutting import CannotCutError, Cutting
from symbiosis_adapters.deferral import Deferral
from symbiosis_adapters.deferred import values_in
from symbiosis_adapters.modules import RemoteLayer, form
from symbiosis_adapters.placeholder import takes
from symbiosis_adapters.vectors import Known
from symbiosis_core.logs import event, get_logger

__all__ = ["capture_decoding"]

log = get_logger(__name__)

_CONFIG: Final = {
    "specialize_float": True,  # else a number such as a LoRA's scaling becomes a tensor, made anew in every step
    "skip_nnmodule_hook_guards": False,  # else a hook that is put on a layer later would never be called
}
_classes: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}


def capture_decoding(model: PreTrainedModel, deferral: Deferral) -> None:
    """From now on decode steps of `model` are captured. A second time changes nothing."""
    if "symbiosis_capture" in vars(model):
        return
    dtype = model.dtype
    for layer in model.modules():
        if isinstance(layer, RemoteLayer):
            known = form(layer)
            assert known is not None  # a remote layer is a linear or an embedding
            layer.captured = (enroll(layer), known[2], dtype)
    vars(model)["symbiosis_capture"] = _Capture(deferral)
    model.__class__ = _capturing(type(model))


class _Capture:
    """What is captured of one model. A copy of the model begins anew."""

    def __init__(self, deferral: Deferral) -> None:
        self.deferral = deferral
        self.compiled: Callable[..., Any] | None = None
        self._takes = 0
        self._taken = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Capture:
        return _Capture(self.deferral)

    def allows(self, model: nn.Module) -> bool:
        """Whether all frozen layers of `model` are computed by the daemon: no guard would notice if not."""
        if self._takes != takes():
            self._takes = takes()
            self._taken = any(isinstance(layer, RemoteLayer) and layer.taken for layer in model.modules())
        return not self._taken

    def forward_of(self, model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the captured form of a forward of `model`."""
        if self.compiled is None:
            bound = types.MethodType(forward, model)
            compiled = torch.compile(bound, backend=self._backend, dynamic=True)
            self.compiled = torch._dynamo.config.patch(_CONFIG)(compiled)
        return self.compiled

    def _backend(self, graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        return _Captured(graph, self.deferral)


class _Captured:
    """One graph of torch.compile, cut for every batch size that it meets."""

    def __init__(self, graph: fx.GraphModule, deferral: Deferral) -> None:
        self._graph = graph
        self._deferral = deferral
        self._cuts: dict[tuple[int, ...], tuple[fx.GraphModule, list[Known]]] = {}
        self._uncut = False

    def __call__(self, *inputs: Any) -> Any:
        sizes = tuple([len(x) for x in inputs if isinstance(x, Tensor) and x.dtype is torch.int64 and x.ndim])
        found = self._cuts.get(sizes)
        if found is not None:
            cut, vectors = found
            if all(known.still() for known in vectors):
                return cut(*inputs)
            del self._cuts[sizes]
        cutting = Cutting(self._graph, self._deferral)
        if self._uncut:
            return cutting.run_plain(inputs)
        try:
            result = cutting.run_once(inputs)
        except CannotCutError as error:
            self._uncut = True
            log.info(event("a captured forward is run uncut", why=error))
            return Cutting(self._graph, self._deferral).run_plain(inputs)
        self._cuts[sizes] = cutting.cut(), cutting.vectors
        return result


def _capturing(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Returns the class whose decode steps are captured; it goes by the same name."""
    if cls not in _classes:
        plain = cls.forward

        @functools.wraps(plain)
        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            capture: _Capture = vars(self)["symbiosis_capture"]
            if not _is_decode_step(self, args, kwargs) or not capture.allows(self):
                return plain(self, *args, **kwargs)
            return capture.forward_of(self, plain)(*values_in(args), **values_in(kwargs))

        named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _classes[cls] = type(cls.__name__, (cls,), {**named, "forward": forward})
    return _classes[cls]


def _is_decode_step(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether this forward is one position of every sequence, after others, and nothing is learned from it."""
    if args or model.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    x, past = kwargs.get("input_ids"), kwargs.get("past_key_values")
    return isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] == 1 and past is not None
