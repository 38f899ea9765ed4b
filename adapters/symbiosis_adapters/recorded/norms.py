"""The norm that is one function of torch. Others are written in functions of one value and of two."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from symbiosis_adapters.deferred.recording import NodeKey
from symbiosis_adapters.deferred.tensor import pending
from symbiosis_adapters.recorded.nodes import deferral_of, source_of
from symbiosis_adapters.recorded.operands import operand_of
from symbiosis_adapters.recorded.rules import Rules

__all__ = ["RECORDED"]

RECORDED = Rules()


@RECORDED.of(F.layer_norm)
def _layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    said = dict(zip(names, args, strict=False)) | kwargs
    x, weight, bias = said["input"], said.get("weight"), said.get("bias")
    if (
        not pending(x)
        or tuple(said["normalized_shape"]) != (x._shape[-1],)
        or (weight is None and bias is not None)
    ):
        return NotImplemented
    found = source_of(x)
    if found is None:
        return NotImplemented
    recording, rows = found
    deferral, lead = deferral_of(recording), x._shape[:-1]
    operands = [rows]
    for vector in (weight, bias):
        operand = None if vector is None else operand_of(deferral, recording, vector, lead)
        if vector is not None and (operand is None or not operand.frozen or operand.plane != rows.plane):
            return NotImplemented
        operands += [] if operand is None else [operand]
    refs = tuple([operand.ref for operand in operands])
    node = NodeKey("layer_norm", refs, number=said.get("eps", 1e-5))
    return deferral.add(recording, node, rows.plane, lead, rows.needs_grad)  # a frozen vector needs none
