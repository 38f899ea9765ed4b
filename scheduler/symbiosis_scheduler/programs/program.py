"""A segment made ready to run: forward over rows, backward over rows, nothing kept in between.

Backward needs values of the forward. Those that cost a matrix product can be handed to it (`Program.saved` says
which; of a loss its slopes, not its logits); whatever is not handed is computed again from the inputs, cheap
functions always. Both ways run the same steps on the same rows, so a lost memo costs time and changes no bit.

R is rows of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.segments import Fn, Node, SegmentSpec, frozen_values
from symbiosis_core.specs import DType
from symbiosis_scheduler.programs.functions import Function, functions_of
from symbiosis_scheduler.programs.gradients import Gradients
from symbiosis_scheduler.programs.steps import Weights, step_of

__all__ = ["Program", "Saved"]

Saved = Mapping[int, Tensor]
"""Values of the forward by number, R rows each; in place of logits the slopes of their loss."""

_PIECE_BYTES: Final = 96 << 20
"""Values that are alive at once in a forward or backward of many rows. Fewer rows at a time cost throughput only
below a few hundred. (A loss takes its logits apart further, see `slopes`.)"""


class Program:
    """One segment over one model's weights. Several threads may run it: it keeps no rows."""

    def __init__(self, spec: SegmentSpec, weights: Weights) -> None:
        self.spec = spec
        segment = spec.segment
        self._inputs = len(segment.inputs)
        self._first = spec.first_node
        self._nodes = segment.nodes
        self._outputs = segment.outputs
        self._frozen = frozen_values(segment)
        self._functions = functions_of(spec, weights, self._frozen)
        self._made = self._make_frozen([weights.vector(name) for name in segment.tensors], weights)
        """The values after the inputs: what is frozen, and None for what is not."""
        self._run = [(value, each) for value, each in self._functions.items() if not each.backward_only]
        self._dead = self._deaths(segment.outputs)
        self._pulled = self._reaching()
        needed = self._needed(self._read_by_pulls(), frozenset())
        self.saved: Final = tuple(value for value in needed if value >= self._first and self._multiplies(value))
        """The values worth keeping from a forward to its backward."""
        self._again = tuple(value for value in needed if value >= self._first and value not in self._frozen)
        self._again_with_saved = tuple(
            value
            for value in self._needed(self._read_by_pulls(), frozenset(self.saved))
            if value in self._again and value not in self.saved
        )
        self.indexed: Final = frozenset(
            index for index, plane in enumerate(segment.inputs) if plane.dtype is DType.INT64
        )
        """The inputs that are indices."""
        row_bytes = sum(
            spec.values[each.args[0] if each.backward_only else value].row_bytes
            for value, each in self._functions.items()
        )
        self.piece_rows: Final = max(64, _PIECE_BYTES // max(1, row_bytes))
        """Rows computed at once; more are taken apart."""

    def __repr__(self) -> str:
        return f"<Program {self.spec.name}: {len(self._nodes)} steps>"

    def check(self, inputs: Sequence[Tensor], tables: Mapping[int, int]) -> None:
        """Checks what the client wrote into integer rows, which decides what memory is read.

        `tables` has the rows of every embedding by op. Costs 4 us a plane.

        Raises:
            RefusedError: BAD_INDEX.
        """
        for node in self._nodes:
            if node.fn is Fn.LOOKUP:
                _check_range(inputs[node.args[0]], tables[node.op], None)
            elif node.fn is Fn.CROSS_ENTROPY:
                _check_range(inputs[node.args[1]], self.spec.values[node.args[0]].width, node.start)

    def forward(
        self, inputs: Sequence[Tensor], saved: dict[int, Tensor] | None = None, keeps_R: Tensor | None = None
    ) -> list[Tensor]:
        """Returns the outputs; puts the values of `self.saved` into `saved`.

        `keeps_R`, on the CPU, is true for the rows of which they are wanted: of others there may be zeros.
        """
        rows = inputs[0].shape[0]
        if rows <= self.piece_rows:
            return self._forward(inputs, saved, keeps_R)
        pieces = []
        for part in _slices(rows, self.piece_rows):
            kept: dict[int, Tensor] | None = None if saved is None else {}
            keeps = None if keeps_R is None else keeps_R[part]
            pieces.append(self._forward([plane[part] for plane in inputs], kept, keeps))
            if saved is not None:
                for value, tensor in (kept or {}).items():
                    if value not in saved:
                        saved[value] = tensor.new_empty(rows, tensor.shape[1])
                    saved[value][part] = tensor
        return _joined(pieces)

    def backward(
        self, inputs: Sequence[Tensor], dys: Sequence[Tensor], saved: Saved | None = None
    ) -> list[Tensor]:
        """Returns the gradients of `spec.wants`, from the gradients of all outputs."""
        rows = inputs[0].shape[0]
        if rows <= self.piece_rows:
            return self._backward(inputs, dys, saved)
        pieces = []
        for part in _slices(rows, self.piece_rows):
            some = None if saved is None else {value: tensor[part] for value, tensor in saved.items()}
            pieces.append(self._backward([plane[part] for plane in inputs], [dy[part] for dy in dys], some))
        return _joined(pieces)

    def _forward(
        self, inputs: Sequence[Tensor], saved: dict[int, Tensor] | None, keeps_R: Tensor | None
    ) -> list[Tensor]:
        values: list[Tensor | None] = [*inputs, *self._made]
        for (value, function), dead_now in zip(self._run, self._dead, strict=True):
            given: list[Any] = [values[arg] for arg in function.args]
            if saved is not None and function.head is not None and function.head.slope in self.saved:
                x_RD, classes_R1 = given
                values[value], saved[function.head.slope] = function.head.both(x_RD, classes_R1, keeps_R)
            else:
                values[value] = function.step(*given)
            if saved is not None and value in self.saved:
                saved[value] = _there(values, value)
            for dead in dead_now:
                values[dead] = None
        return [_there(values, output) for output in self._outputs]

    def _backward(self, inputs: Sequence[Tensor], dys: Sequence[Tensor], saved: Saved | None) -> list[Tensor]:
        values: list[Tensor | None] = [*inputs, *self._made]
        for value, tensor in (saved or {}).items():
            values[value] = tensor
        for value in self._again if saved is None else self._again_with_saved:
            function = self._functions[value]
            values[value] = function.step(*[values[arg] for arg in function.args])
        grads = Gradients(self.spec)
        for output, dy in zip(self._outputs, dys, strict=True):
            if output in self._pulled:
                grads.add(output, dy)
        for value, function in reversed(self._functions.items()):
            grad = grads.take(value)
            if grad is not None:
                self._pull(value, function, grad, values, grads)
            values[value] = None
        return [grads.of_input(index, inputs[index]) for index in self.spec.wants]

    def _pull(
        self, value: int, function: Function, dy: Tensor, values: list[Tensor | None], grads: Gradients
    ) -> None:
        """Adds to the gradients of a value's arguments."""
        if function.pull is None:
            grads.add_columns(function.args[0], self._node(value).start, dy)
            return
        given = [values[arg] for arg in function.args]
        if function.head is not None:
            given.append(values[function.head.slope])
        for index, arg in enumerate(function.args):
            if arg in self._pulled:
                grads.add(arg, function.pull(dy, given, values[value], index))

    def _multiplies(self, value: int) -> bool:
        """Whether making a value costs the product of a matrix."""
        function = self._functions.get(value)
        return self._node(value).fn is Fn.LINEAR or (function is not None and function.multiplies)

    def _node(self, value: int) -> Node:
        return self._nodes[value - self._first]

    def _make_frozen(self, vectors: Sequence[Tensor], weights: Weights) -> list[Tensor | None]:
        made: list[Tensor | None] = list(vectors)
        for value, node in enumerate(self._nodes, self._first):
            frozen = value in self._frozen
            given = [made[arg - self._inputs] for arg in node.args] if frozen else ()
            made.append(step_of(node, weights)(*given) if frozen else None)
        return made

    def _deaths(self, outputs: Iterable[int]) -> list[list[int]]:
        """Returns, per step of a forward, the values that nobody reads after it."""
        run = enumerate(self._run)
        last = {arg: index for index, (_, each) in run for arg in each.args if arg >= self._first}
        dead: list[list[int]] = [[] for _ in self._run]
        for value, index in last.items():
            if value not in set(outputs):
                dead[index].append(value)
        return dead

    def _reaching(self) -> frozenset[int]:
        """Returns the values that depend on an input that has a gradient."""
        reaching = set(self.spec.wants)
        for value, function in self._functions.items():
            if self._node(value).fn is not Fn.LOOKUP and any(arg in reaching for arg in function.args):
                reaching.add(value)
        return frozenset(reaching)

    def _read_by_pulls(self) -> frozenset[int]:
        """Returns the values that the gradients read."""
        read: set[int] = set()
        for value in self._pulled & self._functions.keys():
            function = self._functions[value]
            args, reads = function.args, function.reads
            if function.head is not None:
                read.add(function.head.slope)
            for arg in args if reads.itself else ():
                read.update({arg} & self._pulled)
            for index, arg in enumerate(args if reads.others else ()):
                if arg in self._pulled:
                    read.update(args[:index] + args[index + 1 :])
            if reads.out:
                read.add(value)
        return frozenset(read)

    def _needed(self, read: frozenset[int], given: frozenset[int]) -> tuple[int, ...]:
        """Returns `read` and all that it is computed from, in order, where `given` need not be computed."""
        needed = set(read)
        for value, function in reversed(self._functions.items()):
            if value in needed and value not in given:
                needed.update(function.args)
        return tuple(sorted(needed))


def _slices(rows: int, most: int) -> Iterator[slice]:
    """Yields at most that many rows at a time."""
    for start in range(0, rows, most):
        yield slice(start, min(start + most, rows))


def _joined(pieces: Iterable[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(planes) for planes in zip(*pieces, strict=True)]


def _check_range(ids: Tensor, stop: int, allowed: int | None) -> None:
    if allowed is not None:
        ids = ids[ids != allowed]
    if not ids.numel():
        return
    least, most = torch.aminmax(ids)
    if least < 0 or most >= stop:
        raise RefusedError(RefusalCode.BAD_INDEX, f"a token id is outside of 0 to {stop - 1}")


def _there(values: Sequence[Tensor | None], value: int) -> Tensor:
    tensor = values[value]
    assert tensor is not None
    return tensor
