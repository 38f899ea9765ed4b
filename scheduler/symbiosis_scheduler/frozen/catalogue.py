"""What of a model is lent: which modules become ops, and which tensors clients fetch and keep.

Decided by module type (`isinstance`) and by what one forward shows, never by the names of models or classes.

*Linears* (`nn.Linear`, transformers' `Conv1D`) become ops if they compute x W^T + b. A subclass with a forward of
its own is tried on a few rows: Falcon's agrees and is lent, a router that returns a tuple does not. The client
puts its remote layer in the place of the module.

*Embeddings* (`nn.Embedding`) become ops if they look rows up. A subclass with a forward of its own (scaled
embeddings, shifted positions) is lent if that forward reaches `nn.Embedding.forward` through `super()`: the client
puts its remote lookup between the subclass and `nn.Embedding`, and the subclass keeps working. A table that is
not fed with the input ids (positions, token types) is not lent while it is small: fetching it once is cheaper
than a trip per forward.

*Experts*, the matrices of a parameter of three dimensions, become one op each if the forward takes them one by one
and multiplies rows by them. Code that uses such a parameter in any other way keeps it local.

*Siblings*, linears called in succession on the very same tensor, are offered as one more op.

*Local* is all the rest: norms, rotary tables, every buffer, and the weights of modules that cannot be lent, among
them those whose weight is used by other code than the module's own (Mamba's dt_proj).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import OpId
from symbiosis_core.logs import event, get_logger
from symbiosis_core.specs import OpKind, OpSpec, TensorKind, TensorSpec
from symbiosis_scheduler.frozen.nf4 import nf4_of
from symbiosis_scheduler.frozen.probe import Sightings, watch
from symbiosis_scheduler.frozen.quantised import is_quantised, pieces, row_dtype
from symbiosis_transports.tensors import TORCH_DTYPES

__all__ = ["LOCAL_TABLE_BYTES", "Catalogue", "catalogue_of", "trial"]

LOCAL_TABLE_BYTES: Final = 16 << 20
"""A table that is not fed with the input ids stays local up to this size. Holds the positions of all models up to
about 13B; each client keeps its own copy, which is why there is a limit."""

_DTYPES: Final = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """`ops[i].id == i`. Modules come first, then experts, then siblings, after what they are members of."""

    ops: tuple[OpSpec, ...]
    tensors: tuple[TensorSpec, ...]


def catalogue_of(model: PreTrainedModel) -> Catalogue:
    """Returns what of `model` is lent. The model is in eval mode, and unchanged afterwards.

    Raises:
        UsageError: the model holds a tensor of a kind that no client could fetch.
    """
    linears = {name: module for name, module in model.named_modules() if _computes_a_linear(module)}
    embeddings = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    seen = watch(model, linears, embeddings)
    if seen.failure:
        log.warning(event("siblings off", model=type(model).__name__, reason=seen.failure))
    lent = {
        name: module
        for name, module in model.named_modules()
        if (name in linears and name not in seen.values_read)
        or (isinstance(module, nn.Embedding) and _is_lent(name, module, seen))
    }
    singles = [(name,) for name in lent]
    groups = [] if seen.failure else list(_siblings(model, lent, seen.runs))
    experts = list(_experts(model, len(singles), seen.stacks))
    ops = (
        *[_op(OpId(index), members, [lent[name] for name in members]) for index, members in enumerate(singles)],
        *experts,
        *[
            _op(OpId(index), members, [lent[name] for name in members])
            for index, members in enumerate(groups, len(singles) + len(experts))
        ],
    )
    tensors = tuple(_tensors(model, lent, seen.stacks))
    local_bytes = sum(tensor.nbytes for tensor in tensors)
    sizes = {"ops": len(singles), "experts": len(experts), "siblings": len(groups)}
    log.info(event("catalogue", **sizes, local_bytes=local_bytes))
    return Catalogue(ops, tensors)


def trial(linear: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Returns three random rows and what `linear` makes of them; None if that is not one tensor of rows."""
    weight = _weight(linear)
    _, width_in = _widths(linear)
    generator = torch.Generator().manual_seed(0)  # the global one belongs to the user
    x_RD = torch.randn(3, width_in, generator=generator).to(weight.dtype)
    try:
        with torch.no_grad():
            y_RO = linear(x_RD)
    except Exception as error:  # noqa: BLE001  a subclass may raise anything; it is not lent then
        log.debug(event("trial failed", kind=type(linear).__name__, reason=error))
        return None
    return (x_RD, y_RO) if isinstance(y_RO, Tensor) else None


def _computes_a_linear(module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear | Conv1D) or not row_dtype(module.weight).is_floating_point:
        return False
    base = nn.Linear if isinstance(module, nn.Linear) else Conv1D
    if type(module).forward is base.forward or nf4_of(module.weight) is not None:
        return True
    if (tried := trial(module)) is None:
        return False
    x_RD, y_RO = tried
    expected_RO = base.forward(module, x_RD)  # type: ignore[arg-type]  # the type is the one just asked for
    tolerance = 4 * torch.finfo(y_RO.dtype).eps
    return y_RO.shape == expected_RO.shape and torch.allclose(y_RO, expected_RO, tolerance, tolerance)


def _is_lent(name: str, module: nn.Embedding, seen: Sightings) -> bool:
    if module.max_norm is not None or name in seen.values_read:  # max_norm: the lookup changes the weight
        return False
    if name not in seen.reached:
        return type(module).forward is nn.Embedding.forward
    return name in seen.token_fed or module.weight.nbytes > LOCAL_TABLE_BYTES


def _siblings(
    model: PreTrainedModel, lent: dict[str, nn.Module], runs: list[list[str]]
) -> Iterator[tuple[str, ...]]:
    """Yields groups whose members are plain, share their weights with nobody, and are only called together."""
    owners = Counter(
        _place(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)
    )
    calls = Counter(name for run in runs for name in run)
    times = Counter(tuple(run) for run in runs)

    def eligible(name: str, run: tuple[str, ...]) -> bool:
        module = lent.get(name)
        return (
            isinstance(module, nn.Linear)
            and (type(module).forward is nn.Linear.forward or nf4_of(module.weight) is not None)
            and all(owners[_place(parameter)] == 1 for parameter in module.parameters())
            and calls[name] == times[run]
        )

    for run in times:
        members = tuple(name for name in run if eligible(name, run))
        kinds = {(row_dtype(weight), is_quantised(weight)) for weight in (_weight(lent[name]) for name in members)}
        if len(members) > 1 and len(kinds) == 1:
            yield members


def _place(parameter: Tensor) -> int:
    """Returns where its memory begins."""
    return pieces(parameter)[0].data_ptr()


def _experts(model: PreTrainedModel, first: int, stacks: dict[str, bool]) -> Iterator[OpSpec]:
    """Yields an op for every matrix of every stack, numbered from `first` on."""
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, transposed in stacks.items():
        matrices, *shape = named[name].shape
        width_in, width_out = shape if transposed else reversed(shape)
        for expert in range(matrices):
            yield OpSpec(
                id=OpId(first),
                kind=OpKind.LINEAR,
                members=(name,),
                width_in=width_in,
                widths_out=(width_out,),
                dtype=_DTYPES[named[name].dtype],
                expert=expert,
                transposed=transposed,
            )
            first += 1


def _op(id: OpId, members: tuple[str, ...], modules: list[nn.Module]) -> OpSpec:
    shapes = [_widths(module) for module in modules]
    embedding = isinstance(modules[0], nn.Embedding)
    return OpSpec(
        id=id,
        kind=OpKind.EMBEDDING if embedding else OpKind.LINEAR,
        members=members,
        width_in=1 if embedding else shapes[0][1],
        widths_out=tuple(width_out for width_out, _ in shapes),
        dtype=_DTYPES[row_dtype(_weight(modules[0]))],
    )


def _widths(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features  # a weight in four bits has another shape
    width_in, width_out = _weight(module).shape  # of an embedding: rows of the table, and one's width
    return width_out, width_in


def _tensors(model: PreTrainedModel, lent: dict[str, nn.Module], stacks: dict[str, bool]) -> Iterator[TensorSpec]:
    """Yields the local tensors. A tensor with several names is listed once, under a name that is not lent."""
    listed: set[int] = set()
    for path, module in model.named_modules():
        for kind, named in (
            (TensorKind.PARAMETER, module.named_parameters(path, recurse=False)),
            (TensorKind.BUFFER, module.named_buffers(path, recurse=False)),
        ):
            for name, tensor in named:
                with_the_op = path in lent and name.rpartition(".")[2] in ("weight", "bias")
                if with_the_op or name in stacks or id(tensor) in listed:
                    continue
                if is_quantised(tensor):
                    raise UsageError(f"{path} is quantised and no ordinary linear. Lend it without quantize")
                if tensor.dtype not in _DTYPES:
                    raise UsageError(f"{name} holds {tensor.dtype}, which no client can fetch. Lend another model")
                listed.add(id(tensor))
                yield TensorSpec(name, kind, _DTYPES[tensor.dtype], tuple(tensor.shape))


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
