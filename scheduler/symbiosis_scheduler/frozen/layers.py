"""The frozen layers: the one copy of the weights, and the ops on it.

R is rows of a whole batch, D width in, O width out, V the rows of an embedding's table.

Nothing here is kept per client or per request. Nothing is recorded for autograd either: the weights require no
gradient, and rows that do are detached. That costs nothing, where entering `no_grad` costs 1.7 us a call and
`inference_mode` 2.6, a twentieth of a decode op; and tensors of the inference mode could not be saved for the
backward of a client in the same process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_core.heaps import trim_heap
from symbiosis_core.specs import Direction, ModelSpec, OpSpec
from symbiosis_scheduler.frozen.catalogue import catalogue_of, trial
from symbiosis_scheduler.frozen.fingerprint import fingerprint, raw_bytes
from symbiosis_scheduler.frozen.lending import Heap, Place
from symbiosis_scheduler.frozen.loading import LoadedModel
from symbiosis_scheduler.frozen.nf4 import nf4_of
from symbiosis_scheduler.frozen.packing import FEW_ROWS, FewRows, Pack, Packing
from symbiosis_scheduler.frozen.quantised import (
    QuantisedLinear,
    held_as,
    is_quantised,
    quantised_linear,
    quantised_siblings,
    reseat,
)
from symbiosis_scheduler.frozen.weights import Relocation, fuse, named_tensors, own, storage_bytes

__all__ = ["FrozenLayers"]


class FrozenLayers:
    """Owns the weights of one model. Several threads may compute with them: a call leaves nothing behind."""

    device: torch.device
    """Where the ops' weights lie, and where `apply` wants its rows."""

    def __init__(self, loaded: LoadedModel, place: Place | None = None) -> None:
        """Takes the model over: its weights move to `place`, by default the heap, and stay usable.

        All of it on the CPU, where the fingerprint and the small tensors come from; see `move_to`.

        Raises:
            UsageError: the model cannot be lent.
        """
        model, place = loaded.model, place or Heap()
        self.quantized: Final = held_as(model)
        """How linears are held, if not in the base's element type."""
        self.device = torch.device("cpu")
        catalogue = catalogue_of(model)
        modules, stacks = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
        members_of = {op.id: [modules[member] for member in op.members] for op in catalogue.ops if op.expert < 0}
        fused = {id: _fused(members, place) for id, members in members_of.items() if len(members) > 1}
        moved = [member for id in fused for member in members_of[id] if nf4_of(member.weight) is None]
        own(model, except_for=moved, place=place)  # siblings in four bits lie where they lay
        self.lent: Final = place.close(model.named_parameters(remove_duplicate=False))
        """What clients may map, or why nothing."""
        self._ops: Final = [
            fused[op.id]
            if op.id in fused
            else _single(members_of[op.id][0])
            if op.id in members_of
            else _expert(stacks[op.members[0]], op)
            for op in catalogue.ops
        ]
        members = chain.from_iterable(members_of.values())
        stacked = [stacks[op.members[0]] for op in catalogue.ops if op.expert >= 0]
        # Each once, as `dict.fromkeys` sees to: siblings are named again, and tied layers share theirs.
        self._parameters: Final = dict.fromkeys(
            chain(chain.from_iterable(member.parameters(recurse=False) for member in members), stacked)
        )
        named = dict(named_tensors(model))
        # Their data, so that a parameter that moves with an op leaves here what clients fetch.
        self._tensors: Final = {tensor.name: named[tensor.name].data for tensor in catalogue.tensors}
        generation_config = getattr(model, "generation_config", None)
        self.spec: Final = ModelSpec(
            name=loaded.name,
            name_or_path=loaded.name_or_path,
            fingerprint=fingerprint(model),
            dtype=loaded.dtype,
            base_bytes=storage_bytes(model),
            config_json=_config_json(model),
            generation_config_json=generation_config.to_json_string() if generation_config else "{}",
            ops=catalogue.ops,
            tensors=catalogue.tensors,
            ties=_ties(model),
            quantized=self.quantized,
        )

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"<FrozenLayers {spec.name} {spec.dtype.name.lower()}: {len(spec.ops)} ops, {spec.base_bytes} bytes "
            f"on {self.device}>"
        )

    def move_to(self, device: torch.device) -> None:
        """Copies the ops' weights to `device`, those of the model included, and frees what they were here.

        What clients fetch by name stays on the CPU.

        Raises:
            UsageError: they do not fit, or are of a kind that is held on the CPU only.
        """
        if self.quantized == "int8":
            raise UsageError(f"{self.spec.name} is in eight bits, and held on the CPU only. Leave --device out")
        moved = Relocation(device)
        try:
            for layer in self._ops:
                layer.move(moved)
            for parameter in self._parameters:
                reseat(parameter, moved)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"{self.spec.name} does not fit on {device}: it takes {self.spec.base_bytes / 1e6:.0f} MB. "
                f"{error} Give another --device, or a smaller --dtype"
            ) from error
        self.device = device
        del moved  # it holds what is to be freed
        trim_heap()

    def pack_with(self, packing: Packing) -> None:
        """From now on linears that multiply few rows on the CPU pack their weight first, if all of them fit."""
        linears = [layer for layer in self._ops if isinstance(layer, _Linear)]
        whole, parts = _apart([linear.span for linear in linears])
        if packing.admits(sum([linears[each].weight_bytes for each in whole])):
            for each in whole:
                linears[each].pack_with(packing.pack)
            for each in parts:
                linears[each].pack_with(packing.pack_again)

    def apply(self, op: OpSpec, direction: Direction, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Returns the answer rows, written into `out` where given. On a GPU they are queued, not computed yet.

        `x` and `out` lie on `device` and have the shapes and element types of `op.row_in` and `op.row_out`; the
        caller has checked what came from a client. Only token ids are checked here, since they decide what memory
        is read.

        Raises:
            RefusedError: BAD_INDEX or NO_BACKWARD; nothing was written.
        """
        layer = self._ops[op.id]
        assert out is None or out.shape == (x.shape[0], layer.widths[direction])  # torch would resize it
        if x.requires_grad:
            x = x.detach()
        return layer.forward(x, out) if direction is Direction.FORWARD else layer.backward(x, out)

    def look_up(self, op: OpSpec, ids_R1: Tensor) -> Tensor:
        """Returns what `apply` would, for ids that went through `check`: to look again would wait for a GPU."""
        layer = self._ops[op.id]
        assert isinstance(layer, _Embedding)
        return layer.look_up(ids_R1, None)

    def check(self, op: OpSpec, direction: Direction, x: Tensor) -> None:
        """Checks one request's rows as `apply` would, so that one client's bad ids do not fail a whole batch.

        `x` lies on the CPU, wherever the weights are.

        Raises:
            RefusedError: BAD_INDEX or NO_BACKWARD.
        """
        layer = self._ops[op.id]
        if isinstance(layer, _Embedding):
            layer.check(x) if direction is Direction.FORWARD else layer.backward(x, None)

    def layer(self, op: int) -> _Linear | QuantisedLinear | _Embedding:
        """Returns what computes the op of that number. See `steps.Weights`."""
        return self._ops[op]

    def vector(self, name: str) -> Tensor:
        """Returns a small tensor on `device`. See `steps.Weights`."""
        return self._tensors[name].to(self.device)

    @property
    def table_rows(self) -> dict[int, int]:
        """How many rows every embedding has, by op."""
        return {
            op.id: layer.rows
            for op, layer in zip(self.spec.ops, self._ops, strict=True)
            if isinstance(layer, _Embedding)
        }

    def tensor_bytes(self, name: str) -> memoryview:
        """Returns all bytes of a small tensor, little endian and in C order, read-only and not copied.

        Raises:
            RefusedError: UNKNOWN_TENSOR.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise RefusedError(
                RefusalCode.UNKNOWN_TENSOR,
                f"{self.spec.name} lends no tensor {name}",
                "ask for one that the catalogue lists",
            )
        return raw_bytes(tensor)


def _apart(spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Returns which of these spans of memory are whole, and which lie in one of those, as siblings do."""
    whole: list[int] = []
    parts: list[int] = []
    end = 0
    for index in sorted(range(len(spans)), key=lambda each: (spans[each][0], -spans[each][1])):
        stop = spans[index][1]
        (parts if stop <= end else whole).append(index)
        end = max(end, stop)
    return whole, parts


class _Linear:
    """y = x W + b, W as D x O: a view of what the module holds, so that the bits are those of the module."""

    __slots__ = ("_bias_O", "_bias_apart", "_few_rows", "_to_pack", "_weight_DO", "_weight_OD", "widths")

    def __init__(self, weight_DO: Tensor, bias_O: Tensor | None, *, bias_apart: bool = False) -> None:
        width_in, width_out = weight_DO.shape
        self.widths = (width_out, width_in)  # of an answer row, by direction
        self._weight_DO = weight_DO
        self._weight_OD = weight_DO.t()
        self._bias_O = bias_O
        self._bias_apart = bias_apart
        self._few_rows: FewRows | None = None
        self._to_pack: list[Pack] = []
        """To be asked at the first product of few rows. A list, for of several threads one alone pops it."""

    @property
    def weight_bytes(self) -> int:
        return self._weight_OD.nbytes

    @property
    def span(self) -> tuple[int, int]:
        """Where the weight lies: its first byte, and the one after its last."""
        start = self._weight_OD.data_ptr()
        return start, start + self.weight_bytes

    def move(self, moved: Callable[[Tensor], Tensor]) -> None:
        self._weight_DO = moved(self._weight_DO)
        self._weight_OD = self._weight_DO.t()
        self._bias_O = None if self._bias_O is None else moved(self._bias_O)
        self._few_rows = None
        self._to_pack.clear()

    def pack_with(self, pack: Pack) -> None:
        """Lets the weight be packed, once, when it is wanted."""
        self._to_pack[:] = [] if self._bias_apart else [pack]

    # mm and addmm into `out` take the time of F.linear and give its bits, for 1, 8 and 256 rows, in bfloat16 and
    # float32. So there is one way for all; mv would be up to 1.8 times slower for one row of bfloat16.

    def forward(self, x_RD: Tensor, out_RO: Tensor | None) -> Tensor:
        if x_RD.shape[0] <= FEW_ROWS:
            if self._to_pack:
                self._pack()
            if self._few_rows is not None:
                y_RO = self._few_rows(x_RD)
                return y_RO if out_RO is None else out_RO.copy_(y_RO)
        return self._forward(x_RD, out_RO)

    def _forward(self, x_RD: Tensor, out_RO: Tensor | None = None) -> Tensor:
        if self._bias_O is None:
            return torch.mm(x_RD, self._weight_DO, out=out_RO)
        if self._bias_apart:
            return torch.mm(x_RD, self._weight_DO, out=out_RO).add_(self._bias_O)
        return torch.addmm(self._bias_O, x_RD, self._weight_DO, out=out_RO)

    def _pack(self) -> None:
        try:
            pack = self._to_pack.pop()
        except IndexError:  # another thread is packing, and this one multiplies as ever meanwhile
            return
        self._few_rows = pack(self._weight_OD, self._bias_O, self._forward)

    def backward(self, dy_RO: Tensor, out_RD: Tensor | None) -> Tensor:
        return torch.mm(dy_RO, self._weight_OD, out=out_RD)

    def columns(self, start: int, width: int) -> _Linear:
        """Returns some columns, in the same memory. To be asked for after `move`."""
        bias_O = None if self._bias_O is None else self._bias_O.narrow(0, start, width)
        return _Linear(self._weight_DO.narrow(1, start, width), bias_O, bias_apart=self._bias_apart)


class _Embedding:
    """Looks rows up."""

    __slots__ = ("_table_VO", "rows", "widths")

    def __init__(self, table_VO: Tensor) -> None:
        self.widths = (table_VO.shape[1], 1)
        self.rows = table_VO.shape[0]
        self._table_VO = table_VO

    def move(self, moved: Callable[[Tensor], Tensor]) -> None:
        self._table_VO = moved(self._table_VO)

    def forward(self, ids_R1: Tensor, out_RO: Tensor | None) -> Tensor:
        self.check(ids_R1)
        return self.look_up(ids_R1, out_RO)

    def look_up(self, ids_R1: Tensor, out_RO: Tensor | None) -> Tensor:
        return torch.index_select(self._table_VO, 0, ids_R1.reshape(-1), out=out_RO)

    def check(self, ids_R1: Tensor) -> None:
        """Costs 4 us up to thousands of ids. On a GPU a bad id would otherwise end the whole process."""
        if not ids_R1.numel():
            return
        least, most = torch.aminmax(ids_R1)
        rows = self._table_VO.shape[0]
        if least < 0 or most >= rows:
            raise RefusedError(
                RefusalCode.BAD_INDEX,
                f"a token id is outside of 0 to {rows - 1}",
                "use the tokenizer of this model",
            )

    def backward(self, dy_RO: Tensor, out_R1: Tensor | None) -> Tensor:
        raise RefusedError(
            RefusalCode.NO_BACKWARD, "token ids have no gradient", "let the backward end at the embedding"
        )


def _config_json(model: PreTrainedModel) -> str:
    """Returns the configuration; how the weights are held is no business of a client, which has none."""
    text: str = model.config.to_json_string(use_diff=False)
    if not hasattr(model.config, "quantization_config"):
        return text
    config = json.loads(text)
    del config["quantization_config"]
    return json.dumps(config, indent=2, sort_keys=True)


def _ties(model: PreTrainedModel) -> tuple[tuple[str, ...], ...]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple([tuple(each) for each in names.values() if len(each) > 1])


def _single(module: nn.Module) -> _Linear | QuantisedLinear | _Embedding:
    if isinstance(module, nn.Embedding):
        return _Embedding(module.weight.data)
    assert isinstance(module, nn.Linear | Conv1D)
    if isinstance(module, nn.Linear) and is_quantised(module.weight):
        return quantised_linear(module)
    bias_O = None if module.bias is None else module.bias.data
    weight_DO = module.weight.data if isinstance(module, Conv1D) else module.weight.data.t()
    return _Linear(weight_DO, bias_O, bias_apart=_adds_bias_apart(module))


def _expert(stack: Tensor, op: OpSpec) -> _Linear:
    weight = stack.data[op.expert]
    return _Linear(weight if op.transposed else weight.t(), None)


def _fused(members: list[nn.Module], place: Place) -> _Linear | QuantisedLinear:
    linears = [member for member in members if isinstance(member, nn.Linear)]
    if is_quantised(linears[0].weight):
        return quantised_siblings(linears)
    weight_OD, bias_O = fuse(linears, place)
    return _Linear(weight_OD.t(), bias_O)


def _adds_bias_apart(module: nn.Linear | Conv1D) -> bool:
    """Says whether a forward of the module's own rounds before it adds the bias, as Falcon's does."""
    if module.bias is None or type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return False
    tried = trial(module)
    assert tried is not None  # else it would not be in the catalogue
    x_RD, y_RO = tried
    return torch.equal(y_RO, x_RD @ module.weight.data.t() + module.bias.data)
