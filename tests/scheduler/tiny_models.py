"""Small random models of many architectures, and the smallest possible client for them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.loading import LoadedModel
from symbiosis_transports.tensors import torch_dtype

VOCABULARY = 96
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
    "falcon": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2},
    "gemma": {**_LLAMA, "head_dim": 8},
    "gemma2": {**_LLAMA, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
    "gpt_neox": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 2},
    "llama": _LLAMA,
    "llama4_text": {**_LLAMA, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4},
    "gpt_oss": {**_LLAMA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
    "mixtral": {**_LLAMA, "num_local_experts": 4},
    "opt": {"hidden_size": 32, "num_attention_heads": 4, "ffn_dim": 48, "num_hidden_layers": 2},
    "phimoe": {**_LLAMA, "num_local_experts": 4},
    "qwen2": _LLAMA,
}
ARCHITECTURES = ["bloom", "falcon", "gemma", "gemma2", "gpt2", "gpt_neox", "llama", "opt", "qwen2"]
"""Those of which every linear is lent."""


def tiny(architecture: str, dtype: DType = DType.FLOAT32, **changes: Any) -> Any:
    """Returns the same random model for the same arguments, in eval mode; typed as Any, for its submodules."""
    config = AutoConfig.for_model(architecture, vocab_size=VOCABULARY, **{**CONFIGS[architecture], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms, too, are to matter
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(torch_dtype(dtype)).eval().requires_grad_(False)


def loaded(model: PreTrainedModel, dtype: DType = DType.FLOAT32) -> LoadedModel:
    return LoadedModel("tiny", "/models/tiny", dtype, model)


def lend(model: PreTrainedModel, dtype: DType = DType.FLOAT32) -> FrozenLayers:
    return FrozenLayers(loaded(model, dtype))


def borrow(model: PreTrainedModel, layers: FrozenLayers, *, siblings: bool = False) -> Any:
    """Returns a copy of `model` whose ops are computed by `layers`, and whose own weights for them are NaN."""
    borrower = copy.deepcopy(model)
    modules = dict(borrower.named_modules())
    for op in layers.spec.ops:
        if len(op.members) == 1:
            _replace(modules[op.members[0]], layers, op)
        elif siblings:
            _replace_siblings([modules[member] for member in op.members], layers, op)
    return borrower


def _replace(module: nn.Module, layers: FrozenLayers, op: OpSpec) -> None:
    def forward(x: Tensor) -> Tensor:
        rows = x.reshape(-1, op.width_in).contiguous()
        answer = layers.apply(op, Direction.FORWARD, rows)
        lead = x.shape if op.kind is OpKind.EMBEDDING else x.shape[:-1]
        return answer.view(*lead, op.width_out)

    _forget(module)
    if op.kind is OpKind.LINEAR:
        vars(module)["forward"] = forward
        return

    class Remote(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return forward(input)

    kind = type(module)
    module.__class__ = Remote if kind is nn.Embedding else type("Remote", (kind, Remote), {})


def _replace_siblings(modules: list[nn.Module], layers: FrozenLayers, op: OpSpec) -> None:
    answers: list[Tensor] = []

    def forward_of(index: int) -> Any:
        def forward(x: Tensor) -> Tensor:
            if index == 0:
                rows = x.reshape(-1, op.width_in).contiguous()
                answers[:] = layers.apply(op, Direction.FORWARD, rows).split(list(op.widths_out), dim=1)
            return answers[index].reshape(*x.shape[:-1], op.widths_out[index])

        return forward

    for index, module in enumerate(modules):
        _forget(module)
        vars(module)["forward"] = forward_of(index)


def _forget(module: Any) -> None:
    module.weight = nn.Parameter(torch.full_like(module.weight, float("nan")), requires_grad=False)
