"""Cuts a captured forward: what the client computes stays a graph, what the daemon computes becomes trips in it.

torch.compile hands over a graph of a whole forward: straight-line code, whatever the model's Python did to get
there. It is run once, node by node, over deferred tensors, so the rules that cut an eager forward cut this one,
too; and beside the running, the same graph is written down anew: nodes that had values computed are copied, nodes
that were recorded are left out, and where a recording was computed stands one call. So there is one partitioner,
and a captured forward makes the trips of an eager one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from symbiosis_adapters.captured.operation import OPERATION, layer_of
from symbiosis_adapters.deferred.recording import Recording, StandIn
from symbiosis_adapters.deferred.tensor import Deferred, pending, root_of, value_of
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.vectors import Known
from symbiosis_adapters.trips.segment_rows import Trip, replayed
from symbiosis_core.specs import DType
from symbiosis_transports.tensors import torch_dtype

__all__ = ["CannotCutError", "Cutting"]


class CannotCutError(Exception):
    """The graph does something that cannot be written down; run as it is it is right. Caught by `capture`."""


class _Slot:
    """The value of one recorded node in the new graph."""

    __slots__ = ("node", "shape", "views")

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self.node: fx.Node | None = None
        """None: it has not been asked for."""
        self.views: dict[torch.Size, fx.Node] = {}


_CONSTANTS = (bool, int, float, torch.Size, torch.dtype, torch.device)
_RECORDED = object()
"""The place of a tuple of deferred tensors, which nobody may take whole."""


class Cutting(fx.Interpreter):
    """One run of a captured graph, which leaves `cut()` behind. For a thread that records no gradient."""

    def __init__(self, module: fx.GraphModule, deferral: Deferral) -> None:
        super().__init__(module)
        self._deferral = deferral
        self._new = fx.Graph()
        self._places: dict[fx.Node, Any] = {}
        """Where the value of an old node is: a new node, or a constant."""
        self._values: dict[int, tuple[Tensor, fx.Node]] = {}
        """New nodes by the ids of their values, which are held so that no id comes twice."""
        self.vectors: list[Known] = []
        """The frozen vectors whose values the trips take for granted."""
        self.trips = 0
        self._given: Sequence[Any] = ()
        """What the graph is run with, the model's parameters among it."""
        self._writes = True

    def run_once(self, inputs: Sequence[Any]) -> Any:
        """Returns what the graph gives."""
        self._given = inputs
        with self._deferral.trips.observed(self._trip):
            return self.run(*inputs)

    def run_plain(self, inputs: Sequence[Any]) -> Any:
        """Returns what the graph gives, and writes nothing down."""
        self._writes = False
        return self.run(*inputs)

    def cut(self) -> fx.GraphModule:
        """Returns the graph that makes trips, after `run_once`."""
        return fx.GraphModule(self.module, self._new)

    # -- running ---------------------------------------------------------------------------------------------

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Has a remote layer compute what the operation stands for."""
        if target is OPERATION or target is torch.ops.symbiosis.frozen_layer:
            remote: Any = layer_of(args[1]).remote
            return remote(args[0])
        return super().call_function(target, args, kwargs)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns values only: what is left of the recordings is computed."""
        return fx.node.map_aggregate(args[0], lambda each: value_of(each) if type(each) is Deferred else each)

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node, and writes it down if it was not recorded."""
        result = super().run_node(n)
        if not self._writes:
            return result
        if type(result) is Deferred:
            self._slot(result)
        elif isinstance(result, tuple | list) and any(type(each) is Deferred for each in result):
            self._places[n] = _RECORDED
        elif any(pending(self.env.get(each)) for each in n.all_input_nodes) and n.op != "output":
            if type(result) not in _CONSTANTS:
                raise CannotCutError(f"{n.format_node()} reads a tensor that has no value")
            self._places[n] = result
        else:
            self._copy(n, result)
        return result

    # -- writing ---------------------------------------------------------------------------------------------

    def _copy(self, n: fx.Node, result: Any) -> None:
        made = self._places[n] = self._new.node_copy(n, self._place)
        if isinstance(result, Tensor):
            self._values[id(result)] = result, made

    def _place(self, old: fx.Node) -> Any:
        value = self.env.get(old)
        if type(value) is Deferred:
            return self._node_of(self._slot(value), value._shape)
        place = self._places[old]
        if place is _RECORDED:
            raise CannotCutError(f"{old.format_node()} is taken as a whole")
        return place

    def _slot(self, value: Any) -> _Slot:
        """Returns the slot of what stands for a node. A view has that of its whole."""
        state = vars(value)
        slot: _Slot | None = state.get("symbiosis_slot")
        if slot is None:
            root = root_of(value)
            slot = state["symbiosis_slot"] = _Slot(value._shape) if root is value else self._slot(root)
        return slot

    def _node_of(self, slot: _Slot, shape: torch.Size) -> fx.Node:
        if slot.node is None:
            raise CannotCutError("a value was computed where nobody saw it")
        if shape == slot.shape:
            return slot.node
        if shape not in slot.views:
            slot.views[shape] = self._new.call_method("view", (slot.node, tuple(shape)))
        return slot.views[shape]

    def _trip(self, trip: Trip, recording: Recording, wanted: Sequence[StandIn], values: Sequence[Tensor]) -> None:
        """Writes a trip down that was just made."""
        asked = [each for each in wanted if each._index not in trip.derived]
        call = replayed(trip, [each._shape for each in asked], recording.rows)
        call.__name__ = f"trip_{self.trips}"
        self.trips += 1
        answers = self._new.call_function(call, tuple(self._input(recording, index) for index in trip.inputs))
        there = {
            each._index: self._new.call_function(operator.getitem, (answers, position))
            for position, each in enumerate(asked)
        }
        shapes = {each._index: each._shape for each in wanted}
        for index, node in trip.derived.items():
            width = shapes[node.args[0]][-1]
            source = self._new.call_method("view", (there[node.args[0]], (*shapes[index][:-1], width)))
            if node.fn == "take":
                there[index] = self._new.call_method("narrow", (source, -1, node.start, node.width))
            else:
                there[index] = self._new.call_method("to", (source, torch_dtype(DType(node.dtype))))
        for each, value in zip(wanted, values, strict=True):
            slot = self._slot(each)
            slot.node = there[each._index]
            self._values[id(value)] = value, slot.node
        self.vectors += self._deferral.vectors.named(recording.tensors, self._given)

    def _input(self, recording: Recording, index: int) -> fx.Node:
        x = recording.named(index)
        if id(x) in self._values:
            return self._values[id(x)][1]
        for value in self.env.values():
            if type(value) is Deferred and value._value is x:
                return self._node_of(self._slot(value), value._shape)
        raise CannotCutError("a trip reads a tensor that no node of the graph has made")
