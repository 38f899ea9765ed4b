"""Some of the rows of a pending tensor: what it is made of, over these rows of the client's tensors alone.

No row looks at another, so the others need not be computed: a prompt's logits are wanted of its last token only,
and then one row goes through the last block and the head. The rows are chosen here, where the tensors are; the
daemon sees a request of fewer rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symbiosis_adapters.deferred import Deferred, root_of
from symbiosis_adapters.drafting import needed_by
from symbiosis_adapters.recorded.nodes import deferral_of, source_of
from symbiosis_adapters.recording import Recording

__all__ = ["some_rows"]


def some_rows(x: Deferred, index: tuple[slice, ...]) -> Deferred | None:
    """Returns the rows that `index` takes of the leading sizes of `x`; None where they cannot be recorded now."""
    found, whole = source_of(x), x._shape[:-1]
    lead = torch.Size([len(range(*each.indices(size))) for each, size in zip(index, whole, strict=True)])
    if found is None or not lead.numel():
        return None
    recording, source = found
    needed = needed_by(recording, [source.ref])
    refs = {arg for node in needed for arg in recording.nodes[node].args}
    inputs = sorted({-ref // 2 for ref in refs if ref < 0 and ref % 2})
    recording.check_versions(inputs)
    fresh = Recording(recording.forcing, lead.numel(), recording.mode, recording.device)
    moved = {-2 * k - 1: fresh.input(_taken(recording.inputs[k], whole, index)) for k in inputs}
    moved |= {ref: fresh.vector(recording.tensors[-ref // 2 - 1]) for ref in refs if ref < 0 and not ref % 2}
    *before, last = needed
    for node in before:
        key = recording.nodes[node]
        moved[node] = len(fresh.nodes)
        fresh.add(key._replace(args=tuple([moved[arg] for arg in key.args])), recording.planes[node], None)
    key = recording.nodes[last]
    key = key._replace(args=tuple([moved[arg] for arg in key.args]))
    if recording.mode.grad:
        recording.pass_by(frozenset(needed))
    return deferral_of(recording).add(fresh, key, source.plane, lead, root_of(x)._needs_grad)


def _taken(sent: Tensor, whole: torch.Size, index: tuple[slice, ...]) -> Tensor:
    """Returns rows of a client tensor, whose leading sizes may be others of the same rows; ids have no width."""
    tail = () if sent.dtype is torch.int64 else sent.shape[-1:]
    return sent.reshape(*whole, *tail)[index]
