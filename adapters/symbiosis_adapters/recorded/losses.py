"""The loss: computed of every row with the logits, which then never cross. Rows are summed up here."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn import functional as F

from symbiosis_adapters.deferred.recording import NodeKey
from symbiosis_adapters.deferred.tensor import pending, value_of
from symbiosis_adapters.recorded.nodes import deferral_of, source_of
from symbiosis_adapters.recorded.rules import Rules
from symbiosis_core.specs import Plane

__all__ = ["RECORDED"]

RECORDED = Rules()

_ARGUMENTS: Final = (
    "input",
    "target",
    "weight",
    "size_average",
    "ignore_index",
    "reduce",
    "reduction",
    "label_smoothing",
)


@RECORDED.of(F.cross_entropy)
def _cross_entropy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
    logits, target = said.pop("input"), value_of(said.pop("target"))
    reduction, ignored = said.pop("reduction", "mean"), said.pop("ignore_index", -100)
    plain = said.pop("label_smoothing", 0.0) == 0.0 and all(value is None for value in said.values())
    if not plain or reduction not in ("mean", "sum", "none") or not pending(logits):
        return NotImplemented
    if len(logits._shape) != 2 or target.dtype is not torch.int64 or target.shape != logits._shape[:1]:
        return NotImplemented
    found = source_of(logits)
    if found is None:
        return NotImplemented
    recording, rows = found
    node = NodeKey("cross_entropy", (rows.ref, recording.input(target)), start=ignored)
    made = deferral_of(recording).add(recording, node, Plane(1, rows.plane.dtype), target.shape, rows.needs_grad)
    losses = value_of(made).squeeze(-1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (target != ignored).sum()
