"""What a configuration must name of a model: found by module type and place, the same way for every family."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

__all__ = ["blocks", "cached", "experts", "head", "linears", "norms", "outer_norms", "queries", "table"]

_QUERIES = ("q_proj", "v_proj", "query_key_value", "qkv_proj", "c_attn", "Wqkv")
"""What attention begins with, as families call it; LoRA's first paper adapts these."""


def linears(model: PreTrainedModel) -> list[str]:
    """Returns the last names of all linears but the head, in the order of the model."""
    own = model.get_output_embeddings()
    found = [
        name for name, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D) and each is not own
    ]
    return list(dict.fromkeys(_leaf(name) for name in found))


def queries(model: PreTrainedModel) -> list[str]:
    """Returns the last names of the linears that read what an attention reads."""
    return [name for name in linears(model) if name in _QUERIES]


def blocks(model: PreTrainedModel) -> str:
    """Returns the path of the list of blocks: the first list that is as long as the model is deep."""
    depth = model.config.num_hidden_layers
    lists = [
        name for name, each in model.named_modules() if isinstance(each, nn.ModuleList) and len(each) == depth
    ]
    return str(lists[0])


class Cached(NamedTuple):
    """What a prefix must fit, as PEFT's configuration calls it."""

    num_attention_heads: int
    """Those that have keys of their own."""
    token_dim: int
    """The width of the keys of all of these."""


def cached(model: PreTrainedModel) -> Cached:
    """Returns what the model itself keeps of a token."""
    with torch.no_grad():
        keys = model(input_ids=torch.tensor([[3]]), use_cache=True).past_key_values.layers[0].keys
    return Cached(keys.shape[1], keys.shape[1] * keys.shape[3])


def norms(model: PreTrainedModel) -> list[str]:
    """Returns the last names of all norms: modules whose own parameters are vectors, and that are no linear."""
    return list(dict.fromkeys(_leaf(name) for name in _norms(model)))


def outer_norms(model: PreTrainedModel) -> list[str]:
    """Returns the last names of the norms outside of the blocks."""
    outside = [name for name in _norms(model) if not any(part.isdigit() for part in name.split("."))]
    return list(dict.fromkeys(_leaf(name) for name in outside))


def head(model: PreTrainedModel) -> str:
    """Returns the last name of the output embedding."""
    return _name_of(model, model.get_output_embeddings())


def table(model: PreTrainedModel) -> str:
    """Returns the last name of the input embedding."""
    return _name_of(model, model.get_input_embeddings())


def experts(model: PreTrainedModel) -> list[str]:
    """Returns the weights of a mixture of experts, parameters of three dimensions; without one, a linear's."""
    found = [name for name, each in model.named_parameters() if each.ndim == 3]
    if not found:
        found = [name for name, _ in model.named_parameters() if name.endswith(f".{linears(model)[0]}.weight")]
    return list(dict.fromkeys(".".join(name.split(".")[-3:]) for name in found))


def _norms(model: PreTrainedModel) -> list[str]:
    return [
        name
        for name, each in model.named_modules()
        if not isinstance(each, nn.Linear | Conv1D | nn.Embedding)
        and (own := list(each.parameters(recurse=False)))
        and all(parameter.ndim == 1 for parameter in own)
        and not list(each.children())
    ]


def _name_of(model: PreTrainedModel, wanted: nn.Module) -> str:
    return next(_leaf(name) for name, each in model.named_modules() if each is wanted)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
