"""Rows computed in this process by a plain model: the real mathematics without a daemon.

`Pair` holds a tiny plain model and builds remote models from its catalogue; equality between the two is what the
tests here are about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.pytorch_utils import Conv1D

from symbiosis_adapters.cut import Cut
from symbiosis_adapters.surgery import build
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction, DType, ModelSpec, OpKind, OpSpec, TensorKind, TensorSpec

_SMALL: dict[str, Any] = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_ROPE: dict[str, Any] = {
    **_SMALL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "head_dim": 8,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_ROPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**{key: value for key, value in _ROPE.items() if key != "head_dim"}),
    "gemma": GemmaConfig(**_ROPE),
    "gemma3": Gemma3TextConfig(**_ROPE),
    "gpt2": GPT2Config(
        **_SMALL,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=64,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    ),
    "opt": OPTConfig(
        **_SMALL,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        dropout=0,
    ),
}
LAYERS = 3
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.bfloat16: DType.BFLOAT16,
    torch.float16: DType.FLOAT16,
    torch.int64: DType.INT64,
    torch.bool: DType.BOOL,
}


class LocalRows:
    """Implements `Rows` over the modules of a plain model, and counts trips."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forward: list[str] = []
        self.backward: list[str] = []
        self.seen: list[tuple[int, ...]] = []
        """Shapes of the rows that came."""

    def run(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        width, dtype = op.row_in(direction)
        assert x_TW.ndim == 2, x_TW.shape
        assert x_TW.shape[0] > 0
        assert x_TW.shape[1] == width
        assert _DTYPES[x_TW.dtype] is dtype
        (self.forward if direction is Direction.FORWARD else self.backward).append(op.name)
        self.seen.append(tuple(x_TW.shape))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self._compute(op, direction, x_TW.detach())

    def _compute(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        if op.kind is OpKind.EMBEDDING:
            return embedding(x_TW[:, 0], self._weight(op.members[0]))
        weights = torch.cat([self._weight(member) for member in op.members])
        if direction is Direction.BACKWARD:
            return x_TW @ weights
        biases = [self.model.get_submodule(member).bias for member in op.members]
        y_TO = linear(x_TW, weights)
        return y_TO if biases[0] is None else y_TO + torch.cat([torch.as_tensor(bias) for bias in biases])

    def _weight(self, member: str) -> torch.Tensor:
        module = self.model.get_submodule(member)
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        return weight.T if isinstance(module, Conv1D) else weight

    def clear(self) -> None:
        self.forward.clear()
        self.backward.clear()
        self.seen.clear()


def catalogue(model: PreTrainedModel) -> ModelSpec:
    """Describes a plain model as the daemon would."""
    dtype = _DTYPES[model.dtype]
    ops = [
        OpSpec(OpId(index), kind, members, width_in, widths_out, dtype)
        for index, (kind, members, width_in, widths_out) in enumerate(_ops(model))
    ]
    remote = [model.get_submodule(member) for op in ops for member in op.members]
    frozen = {id(p) for module in remote for p in module.parameters(recurse=False)}
    tensors = [
        TensorSpec(name, TensorKind.PARAMETER, _DTYPES[p.dtype], tuple(p.shape))
        for name, p in model.named_parameters()
        if id(p) not in frozen
    ]
    tensors += [
        TensorSpec(name, TensorKind.BUFFER, _DTYPES[b.dtype], tuple(b.shape)) for name, b in model.named_buffers()
    ]
    return ModelSpec(
        name="tiny",
        name_or_path="someone/tiny",
        fingerprint="0",
        dtype=dtype,
        base_bytes=sum(p.nbytes for p in model.parameters()),
        config_json=json.dumps(model.config.to_dict()),
        generation_config_json=json.dumps(model.generation_config.to_dict()),
        ops=tuple(ops),
        tensors=tuple(tensors),
    )


def _ops(model: nn.Module) -> Iterator[tuple[OpKind, tuple[str, ...], int, tuple[int, ...]]]:
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if isinstance(module, nn.Embedding):
            yield OpKind.EMBEDDING, (path,), 1, (module.embedding_dim,)
        elif isinstance(module, nn.Linear):
            yield OpKind.LINEAR, (path,), module.in_features, (module.out_features,)
        elif isinstance(module, Conv1D):
            yield OpKind.LINEAR, (path,), module.nx, (module.nf,)
    for path in modules:
        for leaves in _SIBLINGS:
            members = tuple(f"{path}.{leaf}" for leaf in leaves)
            if all(member in modules for member in members):
                linears = [modules[member] for member in members]
                widths = tuple(linear.out_features for linear in linears if isinstance(linear, nn.Linear))
                assert isinstance(linears[0], nn.Linear)
                yield OpKind.LINEAR, members, linears[0].in_features, widths


class Pair:
    """A tiny plain model, and remote ones made of its catalogue."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(11)
        self._config = CONFIGS[name]
        base = AutoModelForCausalLM.from_config(self._config, dtype=dtype).eval().requires_grad_(False)
        self._base: PreTrainedModel = base
        self.rows = LocalRows(base)
        self.spec = catalogue(base)

    def plain(self) -> Any:
        """Returns a plain model with the same weights, as from_pretrained would give it."""
        config = type(self._config).from_dict(json.loads(self.spec.config_json))
        config._name_or_path = self.spec.name_or_path
        rng = torch.get_rng_state()
        model = AutoModelForCausalLM.from_config(config, dtype=self._base.dtype)
        torch.set_rng_state(rng)
        model.load_state_dict(self._base.state_dict())
        return model.eval()

    def remote(self, cut: Cut = Cut.SIBLINGS) -> Any:
        """Returns a model whose frozen layers run in `rows`."""
        return build(self.spec, self.rows, self.fetch, cut)

    def fetch(self, tensor: TensorSpec) -> torch.Tensor:
        """Returns a copy of one small tensor."""
        path, _, leaf = tensor.name.rpartition(".")
        value = getattr(self._base.get_submodule(path), leaf)
        assert isinstance(value, torch.Tensor)
        return value.detach().clone()
