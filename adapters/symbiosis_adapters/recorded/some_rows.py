"""Some of the rows of a pending tensor: what it is made of, over these rows of the client's tensors alone.

No row looks at another, so the others need not be computed: a prompt's logits are wanted of its last token only,
and then one row goes through the last block and the head. The rows are chosen here, where the tensors are; the
daemon sees a request of fewer rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symbiosis_adapters.deferred.recording import NodeKey, Recording
from symbiosis_adapters.trips.drafting import needed_by

__all__ = ["over_some_rows"]


def over_some_rows(
    recording: Recording, wanted: int, whole: torch.Size, index: tuple[slice, ...], rows: int
) -> tuple[Recording, NodeKey]:
    """Returns a recording of what node `wanted` is made of, over so many rows, and that node, to be added to it.

    `whole` are the leading sizes of the node's value, of which `index` takes the rows.
    """
    needed = needed_by(recording, [wanted])
    refs = {arg for node in needed for arg in recording.nodes[node].args}
    inputs = sorted({-ref // 2 for ref in refs if ref < 0 and ref % 2})
    recording.check_versions(inputs)
    fresh = Recording(recording.forcing, rows, recording.mode, recording.device)
    moved = {-2 * k - 1: fresh.input(_rows(recording.inputs[k], whole, index)) for k in inputs}
    moved |= {ref: fresh.vector(recording.tensors[-ref // 2 - 1]) for ref in refs if ref < 0 and not ref % 2}
    for node in needed:
        key = recording.nodes[node]
        key = key._replace(args=tuple([moved[arg] for arg in key.args]))
        if node != wanted:
            moved[node] = len(fresh.nodes)
            fresh.add(key, recording.planes[node], None)
    if recording.mode.grad:
        recording.pass_by(frozenset(needed))
    return fresh, key


def _rows(sent: Tensor, whole: torch.Size, index: tuple[slice, ...]) -> Tensor:
    """Returns rows of a client tensor, whose leading sizes may be others of the same rows; ids have no width."""
    tail = () if sent.dtype is torch.int64 else sent.shape[-1:]
    return sent.reshape(*whole, *tail)[index]
