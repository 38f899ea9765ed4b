"""Where the weights lie: one copy, in memory of the daemon's own, which may be lent (`lending`).

Every tensor is copied once, one after the other, out of what transformers loaded. Where no dtype had to change,
that is a view into the mapped checkpoint: it starts at an odd address, it dies with the file, and it keeps the
whole mapping alive. Afterwards nothing is mapped, and the process has grown by little more than the weights
(SmolLM2: unique pages 248 MiB before, 512 in bfloat16 and 769 in float32 after, of which 257 and 513 are weights).
At the peak the pages of the mapped file come on top; the kernel can take them back at any time.

Siblings are copied into one fused tensor, of which the members' weights are views. Tied weights stay tied, because
`parameter.data` is exchanged and not the parameter. A `Relocation` keeps all that on another device.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from symbiosis_core.heaps import trim_heap
from symbiosis_scheduler.frozen.lending import Place
from symbiosis_scheduler.frozen.quantised import is_quantised, pieces, reseat

__all__ = ["Relocation", "fuse", "named_tensors", "own", "storage_bytes"]


def fuse(linears: list[nn.Linear], place: Place) -> tuple[Tensor, Tensor | None]:
    """Moves the linears' weights and biases into one tensor each at `place`; the linears keep views of them.

    A linear without a bias has zeros in the fused one; where none has any, there is no fused bias.
    """
    widths_out = [linear.out_features for linear in linears]
    first_OD = linears[0].weight.data
    weight_OD = place.empty((sum(widths_out), first_OD.shape[1]), first_OD.dtype)
    for linear, rows in zip(linears, weight_OD.split(widths_out), strict=True):
        linear.weight.data = rows.copy_(linear.weight.data)  # frees the member's own before the next is copied
    bias_O = None
    if any(linear.bias is not None for linear in linears):
        bias_O = place.empty((sum(widths_out),), first_OD.dtype).zero_()
        for linear, part in zip(linears, bias_O.split(widths_out), strict=True):
            if linear.bias is not None:
                linear.bias.data = part.copy_(linear.bias.data)
    return weight_OD, bias_O


def own(model: PreTrainedModel, except_for: list[nn.Module], place: Place) -> None:
    """Moves every other tensor: parameters to `place`, buffers to memory of their own.

    Tensors that lie at one address share their copy, too.
    """
    moved = {id(parameter) for module in except_for for parameter in module.parameters(recurse=False)}
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        if id(tensor) in moved:
            continue
        if is_quantised(tensor):
            reseat(tensor, Tensor.clone)
        else:
            address = (tensor.data_ptr(), tensor.shape)
            if address not in copies:
                fresh = place.empty(tensor.shape, tensor.dtype) if isinstance(tensor, nn.Parameter) else None
                copies[address] = tensor.data.clone() if fresh is None else fresh.copy_(tensor.data)
            tensor.data = copies[address]
    trim_heap()  # glibc would keep 100 MiB of what float32 SmolLM2 left


class Relocation:
    """Copies tensors to a device, every storage once: what are views of one memory here are so there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # The sources are kept till the end: else another tensor could come to lie at the address of one that went.
        self._storages: dict[int, tuple[torch.UntypedStorage, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Returns the tensor's copy. It is complete, for streams of every kind, when this returns."""
        source = tensor.untyped_storage()
        place = source.data_ptr()
        if place not in self._storages:
            whole = torch.empty(0, dtype=torch.uint8).set_(source)
            # Not `non_blocking`, so it waits for the copy: the lanes' streams do not wait for this thread's.
            self._storages[place] = (source, whole.to(self._device, copy=True))
        _, whole = self._storages[place]
        return whole.view(tensor.dtype).as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter and buffer under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def storage_bytes(model: PreTrainedModel) -> int:
    """Returns the bytes of all parameters and buffers, each storage counted once."""
    storages = (piece.untyped_storage() for _, tensor in named_tensors(model) for piece in pieces(tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
