"""A captured decode step: the model's forward as one graph, without its Python.

A token costs a client some twenty thousand calls of Python functions, in transformers, in PEFT and in here: the
largest part of its time. torch.compile can trace a whole forward into a graph, guarded by all that the trace
depended on; `cutting` makes trips of what is frozen in it, and what is left runs without the modules.

Tracing takes seconds, so it is asked for (`model.symbiosis.capture()`), it is done for decode steps only (one
position, no gradient, eval mode), and it goes on between steps that are computed as ever: after each it may take
as long as the step did. The trace is one of a snapshot; its guards say whether it fits the model of later steps.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from transformers import PreTrainedModel

from symbiosis_adapters.captured.graph import CapturedGraph
from symbiosis_adapters.captured.hooks import Hooks
from symbiosis_adapters.captured.operation import enroll, is_of
from symbiosis_adapters.captured.snapshot import snapshot
from symbiosis_adapters.captured.turns import Tracing
from symbiosis_adapters.deferred.tensor import values_in
from symbiosis_adapters.layers.modules import RemoteLayer, form
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.weights.valueless import changes
from symbiosis_core.clock import monotonic_us
from symbiosis_core.logs import event, get_logger

__all__ = ["capture_decoding", "stop_capturing"]

log = get_logger(__name__)

_CONFIG: Final[dict[str, Any]] = {
    "specialize_float": True,  # else a number such as a LoRA's scaling becomes a tensor, made anew in every step
    "run_gc_after_compile": False,
}
_MOST_MISSES: Final = 3
"""So many traces, one after the other, may fit no step that comes after them."""
_LONGEST_TURN_US: Final = 500_000.0
"""A step may have waited for a daemon to come back; the next wait is not to be as long."""
_classes: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}


def capture_decoding(model: PreTrainedModel, deferral: Deferral, *, at_once: bool = False) -> None:
    """From now on decode steps of `model` are captured. A second time changes nothing.

    Args:
        at_once: a step that has to be traced waits for the whole trace.
    """
    if "symbiosis_capture" in vars(model):
        return
    vars(model)["symbiosis_capture"] = _Capture(type(model).forward, deferral, at_once=at_once)
    model.__class__ = _capturing(type(model))


def _enroll_layers(model: PreTrainedModel) -> None:
    """Gives every remote layer a number of its own. A copy has that of its original, which may be gone."""
    for layer in model.modules():
        if isinstance(layer, RemoteLayer) and not (layer.captured and is_of(layer.captured[0], layer)):
            known = form(layer)
            assert known is not None  # a remote layer is a linear or an embedding
            layer.captured = (enroll(layer), known[2], model.dtype)


def _own(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the same function with code of its own, for graphs are kept by code: else one that another model's
    capture has made could fit this one's guards.
    """
    if not isinstance(plain, FunctionType):
        return plain
    own = FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    own.__kwdefaults__ = plain.__kwdefaults__
    return functools.update_wrapper(own, plain)


def _computed_apart(layer: nn.Module) -> bool:
    """Whether a layer is computed otherwise than a captured graph has it: here, or in a wider type."""
    return isinstance(layer, RemoteLayer) and (layer.taken or layer.held is not None)


class _Capture:
    """What is captured of one model. A copy of the model begins anew."""

    def __init__(self, plain: Callable[..., Any], deferral: Deferral, *, at_once: bool) -> None:
        self._plain, self._deferral, self._at_once = plain, deferral, at_once
        self._tracing: Tracing | None = None
        self._turn = threading.Lock()
        """Of the thread that traces on; who decodes with the model meanwhile does so uncaptured."""
        self._fits = False
        """Whether there was a graph for the latest step, or one has been made since."""
        self._traced = 0
        self._misses = 0
        """How many traces there were since a step had a graph."""
        self._runs = 0
        self._changes = 0
        self._apart = False
        self._hooks = Hooks()
        self._guards_hooks = False
        """Whether graphs are to notice hooks by themselves: there is one, or there was."""
        self._begin_anew()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Capture:
        return _Capture(self._plain, self._deferral, at_once=self._at_once)

    def allows(self, model: nn.Module) -> bool:
        """Whether all frozen layers of `model` are computed by the daemon: no guard would notice if not."""
        if self._changes != changes():
            self._changes = changes()
            self._apart = any(_computed_apart(layer) for layer in model.modules())
        return not self._apart

    def step(self, model: PreTrainedModel, arguments: dict[str, Any]) -> Any:
        """Returns what a decode step gives, by a graph if one fits, and traces on."""
        if not self._turn.acquire(blocking=False):
            return self._plain(model, **arguments)
        try:
            if self._started and not self._guards_hooks and self._hooks.may_have_come(model):
                self._guards_hooks = True
                self._begin_anew()
            if not self._fits and self._tracing is None and self._misses < _MOST_MISSES:
                self._begin(model, arguments)
            if self._at_once:
                self._trace_on(math.inf)
            began_us, runs = monotonic_us(), self._runs
            result = (self._run_captured if self._traced else self._plain)(model, **arguments)
            self._fits = self._runs != runs
            if self._fits:
                self._misses = 0
            self._trace_on(min(monotonic_us() - began_us, _LONGEST_TURN_US))
            return result
        except BaseException:
            self.stop()
            raise
        finally:
            self._turn.release()

    def stop(self) -> None:
        """Ends a trace that is under way, and lets go what it holds: a copy of the step's arguments."""
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            self._abandon.detach()
            tracing.abandon()

    def _begin_anew(self) -> None:
        """Drops all graphs."""
        self.stop()
        own = _own(self._plain)
        self._compiled = torch.compile(own, backend=self._backend, dynamic=True, fullgraph=True)
        self._run_captured: Callable[..., Any] = torch._dynamo.run(own)
        self._started = False
        self._fits = False
        self._traced = self._misses = 0

    def _begin(self, model: PreTrainedModel, arguments: dict[str, Any]) -> None:
        if (why := _untraceable()) is not None:
            self._give_up(RuntimeError(why))
            return
        if not self._started and not self._guards_hooks:
            self._guards_hooks = self._hooks.inside(model)
        self._started = True
        _enroll_layers(model)
        try:
            copied, given = snapshot(model, arguments)
        except Exception as error:  # noqa: BLE001  # a user's module may raise anything; steps go on uncaptured
            self._give_up(error)
            return
        config = {**_CONFIG, "skip_nnmodule_hook_guards": not self._guards_hooks}
        traced = torch._dynamo.config.patch(config)(self._compiled)
        self._tracing = Tracing(functools.partial(traced, copied, **given))
        self._abandon = weakref.finalize(model, self._tracing.abandon)

    def _trace_on(self, most_us: float) -> None:
        if (tracing := self._tracing) is None:
            return
        tracing.go_on(most_us)
        if not tracing.done:
            return
        self._tracing = None
        self._abandon.detach()
        if tracing.failure is not None:
            self._give_up(tracing.failure)
            return
        self._traced += 1
        self._misses += 1
        self._fits = True  # as far as is known
        log.info(event("a decode step is traced", seconds=f"{tracing.spent_us / 1e6:.1f}"))
        if self._misses == _MOST_MISSES:
            log.info(event("no more decode steps are traced unless this fits", traces=self._traced))

    def _give_up(self, why: BaseException) -> None:
        self._misses = _MOST_MISSES
        first = str(why).strip().partition("\n")[0]
        log.warning(event("decode steps cannot be captured", why=f"{type(why).__name__}: {first}"))

    def _backend(self, graph: fx.GraphModule, examples: list[Tensor]) -> CapturedGraph:
        return CapturedGraph(graph, self._deferral, self._on_run)

    def _on_run(self) -> None:
        self._runs += 1


def _capturing(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Returns the class whose decode steps are captured; it goes by the same name."""
    if cls not in _classes:
        plain = cls.forward

        @functools.wraps(plain)
        def forward(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
            capture: _Capture = vars(self)["symbiosis_capture"]
            if not _is_decode_step(self, args, kwargs):
                return plain(self, *args, **kwargs)
            if not capture.allows(self):
                capture.stop()
                return plain(self, *args, **kwargs)
            return capture.step(self, values_in(kwargs))

        named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _classes[cls] = type(cls.__name__, (cls,), {**named, "forward": forward})
    return _classes[cls]


def _untraceable() -> str | None:
    """Returns why nothing that is done now can be traced; None: it can."""
    if torch._dynamo.config.disable or torch._dynamo.eval_frame._stance.stance != "default":
        return "torch.compile is switched off, or set to a stance"
    if torch._C._len_torch_function_stack():
        return "a torch function mode, such as a default device, is active"
    return None


def stop_capturing(model: nn.Module) -> None:
    """Ends a trace of the model that is under way, if there is one."""
    capture: _Capture | None = vars(model).get("symbiosis_capture")
    if capture is not None:
        capture.stop()


def _is_decode_step(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether this forward is one position of every sequence, after others, and nothing is learned from it."""
    if args or model.training or torch.is_grad_enabled() or torch.compiler.is_dynamo_compiling():
        return False
    x, past = kwargs.get("input_ids"), kwargs.get("past_key_values")
    return isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] == 1 and past is not None
