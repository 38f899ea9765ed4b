"""One graph of torch.compile, which is cut when it is first run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from symbiosis_adapters.captured.cutting import CannotCutError, Cutting
from symbiosis_adapters.captured.turns import TracedError, in_trace
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.vectors import Known
from symbiosis_core.logs import event, get_logger

__all__ = ["CapturedGraph"]

log = get_logger(__name__)


class CapturedGraph:
    """A graph, cut for every batch size that it meets. `on_run` is told that it is run."""

    def __init__(self, graph: fx.GraphModule, deferral: Deferral, on_run: Callable[[], None]) -> None:
        self._graph = graph
        self._deferral = deferral
        self._on_run = on_run
        self._cuts: dict[tuple[int, ...], tuple[fx.GraphModule, list[Known]]] = {}
        self._uncut = False

    def __call__(self, *inputs: Any) -> Any:
        if in_trace():
            raise TracedError
        self._on_run()
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
