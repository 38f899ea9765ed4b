"""The decoder families that are tried, each as the smallest configuration that still has all of its parts.

Data only: nothing here imports transformers. A key is the `model_type` that transformers knows a family by; the
cells of one that the installed release does not know fail, and say so.
"""

from __future__ import annotations

from typing import Any, Final

from symbiosis_bench.compat.other_shapes import ALONE, BESIDE, COMPOSED

__all__ = ["FAMILIES", "LAYERS", "QUICK_FAMILIES", "VOCABULARY", "shape_of"]

LAYERS: Final = 2
VOCABULARY: Final = 96
_WIDTH: Final = 32
_INNER: Final = 64
_HEADS: Final = 4
_POSITIONS: Final = 64

_LLAMA: Final[dict[str, Any]] = {
    "hidden_size": _WIDTH,
    "intermediate_size": _INNER,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "max_position_embeddings": _POSITIONS,
}
_SINGLE: Final = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_HEAD_DIM: Final = {**_LLAMA, "head_dim": _WIDTH // _HEADS}
_GPT: Final = {"n_embd": _WIDTH, "n_layer": LAYERS, "n_head": _HEADS, "n_positions": _POSITIONS}
_ROTARY: Final = {**_GPT, "rotary_dim": 4}
_EXPERTS: Final = {"num_experts": 4, "num_experts_per_tok": 2}

FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "mistral": {**_HEAD_DIM, "sliding_window": 8},
    "qwen2": _LLAMA,
    "qwen3": _HEAD_DIM,
    "gemma": _HEAD_DIM,
    "gemma2": {**_HEAD_DIM, "sliding_window": 8},
    "gemma3_text": {**_HEAD_DIM, "sliding_window": 8},
    "phi": _LLAMA,
    "phi3": {**_LLAMA, "original_max_position_embeddings": _POSITIONS},
    "gpt2": _GPT,
    "gpt_neo": {
        "hidden_size": _WIDTH,
        "num_layers": LAYERS,
        "num_heads": _HEADS,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": _POSITIONS,
        "window_size": 8,
    },
    "gpt_neox": _SINGLE,
    "gpt_bigcode": _GPT,
    "gptj": _ROTARY,
    "codegen": _ROTARY,
    "opt": {
        "hidden_size": _WIDTH,
        "ffn_dim": _INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": _POSITIONS,
        "word_embed_proj_dim": _WIDTH,
    },
    "bloom": {"hidden_size": _WIDTH, "n_head": _HEADS, "n_layer": LAYERS},
    "falcon": {"hidden_size": _WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": _HEADS},
    "mpt": {"d_model": _WIDTH, "n_heads": _HEADS, "n_layers": LAYERS, "max_seq_len": _POSITIONS},
    "stablelm": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": {**_LLAMA, "sliding_window": 8},
    "cohere": _LLAMA,
    "cohere2": {**_LLAMA, "sliding_window": 8},
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "starcoder2": {**_LLAMA, "sliding_window": 8},
    "glm": _HEAD_DIM,
    "glm4": _HEAD_DIM,
    "nemotron": _HEAD_DIM,
    "exaone4": {**_LLAMA, "sliding_window": 8},
    "mixtral": {**_LLAMA, "num_local_experts": 4},
    "qwen2_moe": {**_LLAMA, **_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": _INNER},
    "qwen3_moe": {**_HEAD_DIM, **_EXPERTS, "moe_intermediate_size": 16},
    "olmoe": {**_LLAMA, **_EXPERTS},
    "granitemoe": {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**_HEAD_DIM, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
}
"""Families by `model_type`, with what their configuration says beside the vocabulary."""

QUICK_FAMILIES: Final = ("llama", "gpt2", "mixtral")
"""Those of `--quick`: linears of both kinds, and experts."""

_EVERYBODYS: Final[dict[str, Any]] = {
    **_HEAD_DIM,
    **_GPT,
    **_EXPERTS,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "num_key_value_heads": _HEADS,
    "qk_nope_head_dim": _WIDTH // _HEADS,
    "qk_rope_head_dim": _WIDTH // _HEADS,
    "v_head_dim": _WIDTH // _HEADS,
    "d_model": _WIDTH,
    "d_ff": _INNER,
    "d_kv": _WIDTH // _HEADS,
    "ffn_dim": _INNER,
    "decoder_ffn_dim": _INNER,
    "decoder_layers": LAYERS,
    "decoder_attention_heads": _HEADS,
    "n_inner": _INNER,
    "sliding_window": 8,
    "is_decoder": True,
}
"""What decoders call their sizes. A configuration takes the names that it knows, and ignores the others."""
_TOKENS: Final = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def shape_of(family: str) -> dict[str, Any]:
    """Returns what a family's configuration says; of one that is not in the table, everybody's names for sizes."""
    if family in FAMILIES or family in ALONE:
        return FAMILIES[family] if family in FAMILIES else ALONE[family]
    shape = {**_EVERYBODYS, **BESIDE.get(family, {}), **COMPOSED.get(family, {})}
    if "text_config" in shape:
        shape["text_config"] = {**_EVERYBODYS, "vocab_size": VOCABULARY, **_TOKENS, **shape["text_config"]}
    return shape
