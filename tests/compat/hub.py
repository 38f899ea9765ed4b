"""A hub without a network: tiny random models, and a tokenizer, under the ids that PEFT's tests ask for.

They lie in the cache folder as the hub's own client would have left them there, so everybody finds them: PEFT,
transformers, and the tests. The models are of the kinds that the ids name, with weights of this page's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.words import tokenizer_of

__all__ = ["MODELS", "QUOTES", "fill"]

VOCABULARY: Final = 1100
"""More than the highest token id that the tests name."""
QUOTES: Final = [f"to be or not to be that is question {number}" for number in range(64)]
"""In the place of a data set of quotes."""

_LLAMA: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_OPT: Final = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_GPT: Final = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}
MODELS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("opt", _OPT),
    "peft-internal-testing/opt-125m": ("opt", _OPT),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("gpt2", _GPT),
    "hf-internal-testing/tiny-random-gpt2": ("gpt2", _GPT),
    "gpt2": ("gpt2", _GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("gptj", {**_GPT, "rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("llama", _LLAMA),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("mistral", _LLAMA),
    "peft-internal-testing/tiny-dummy-qwen2": ("qwen2", _LLAMA),
    "trl-internal-testing/tiny-Qwen3ForCausalLM": ("qwen3", {**_LLAMA, "head_dim": 8}),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("gemma3_text", {**_LLAMA, "head_dim": 8}),
}
"""By id: the kind of model, and its shape."""


def fill(cache: Path) -> None:
    """Puts the models into a cache folder of the hub's client, those that are not there yet."""
    for id, (kind, shape) in MODELS.items():
        folder = cache / f"models--{id.replace('/', '--')}"
        if not (folder / "refs" / "main").exists():
            _make(kind, shape, folder / "snapshots" / "local")
            (folder / "refs").mkdir()
            (folder / "refs" / "main").write_text("local")


def _make(kind: str, shape: Mapping[str, Any], folder: Path) -> None:
    config = AutoConfig.for_model(
        kind, **shape, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # they are to matter
                parameter.normal_(std=0.02)
    model.save_pretrained(folder)
    text = " ".join(["<pad> <s> </s> <unk>", *QUOTES, "This is a test prompt . hello"])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer_of(dict.fromkeys(text.split()), "<unk>", **special).save_pretrained(folder)
