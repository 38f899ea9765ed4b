"""Tells whether two daemons hold the same model, by content."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from symbiosis_scheduler.frozen.quantised import pieces

__all__ = ["fingerprint", "raw_bytes"]

_INCIDENTAL: Final = frozenset({"_name_or_path", "name_or_path", "_commit_hash", "transformers_version"})
"""Config keys that say where a model came from and not what it is."""


def fingerprint(model: PreTrainedModel) -> str:
    """Returns a hash over the config and every parameter and buffer; equal exactly for equal models."""
    digest = hashlib.blake2b(digest_size=16)
    config = _essence(json.loads(model.config.to_json_string(use_diff=False)))
    digest.update(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(chain(model.named_parameters(), model.named_buffers())):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in pieces(tensor):
            digest.update(raw_bytes(piece))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """Returns the elements in C order, in the machine's byte order. A view where the tensor lies so already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data.toreadonly()


def _essence(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _essence(inner) for key, inner in value.items() if key not in _INCIDENTAL}
    if isinstance(value, list):
        return [_essence(inner) for inner in value]
    return value
