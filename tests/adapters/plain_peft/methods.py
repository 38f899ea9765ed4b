"""Methods of PEFT that leave the base as it is, each with an architecture to try it on."""

from __future__ import annotations

from collections.abc import Callable

from peft import (
    AdaLoraConfig,
    GloraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)

from tests.adapters.local import LAYERS
from tests.adapters.training import QV, STEPS, config, lora

CASES: dict[str, tuple[str, Callable[[], PeftConfig]]] = {
    "lora q,v": ("llama", lora(QV)),
    "lora k": ("llama", lora(["k_proj"])),
    "lora all": ("llama", lora("all-linear")),
    # With a larger alpha each step magnifies rounding: plain PEFT on other last bits is 2e-3 off after ten steps.
    "lora random": ("llama", lora("all-linear", init_lora_weights=False, lora_alpha=1)),
    "lora dropout": ("llama", lora("all-linear", lora_dropout=0.2, use_rslora=True)),
    "lora embedding": ("llama", lora([*QV, "embed_tokens"])),
    "lora tied": ("llama", lora([*QV, "embed_tokens"], ensure_weight_tying=True)),
    "lora head": ("llama", lora([*QV, "lm_head"])),
    "lora norms": ("llama", lora(QV, modules_to_save=["norm"])),
    "lora last layer": ("llama", lora(QV, layers_to_transform=[LAYERS - 1])),
    "lora layers pattern": ("llama", lora(QV, layers_to_transform=[LAYERS - 1], layers_pattern="layers")),
    "lora qwen2": ("qwen2", lora("all-linear")),
    "lora gemma": ("gemma", lora("all-linear")),
    "lora gemma3": ("gemma3_text", lora([*QV, "embed_tokens"])),
    "lora falcon": ("falcon", lora("all-linear")),
    "lora opt": ("opt", lora("all-linear")),
    "lora gpt2": ("gpt2", lora(["c_attn", "c_proj", "c_fc", "wte"], fan_in_fan_out=True)),
    "ia3": (
        "llama",
        config(IA3Config, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "ia3 up": ("llama", config(IA3Config, target_modules=["up_proj"], feedforward_modules=["up_proj"])),
    "ia3 gpt2": (
        "gpt2",
        config(
            IA3Config,
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
    ),
    "prefix": ("llama", config(PrefixTuningConfig, num_virtual_tokens=4)),
    "prefix gpt2": ("gpt2", config(PrefixTuningConfig, num_virtual_tokens=4)),
    "prompt": ("llama", config(PromptTuningConfig, num_virtual_tokens=4)),
    "p-tuning": ("opt", config(PromptEncoderConfig, num_virtual_tokens=4, encoder_hidden_size=16)),
    "adalora": ("llama", config(AdaLoraConfig, init_r=6, target_r=4, total_step=STEPS, target_modules=QV)),
    "loha": ("llama", config(LoHaConfig, r=4, target_modules=QV)),
    "lokr": ("llama", config(LoKrConfig, r=4, target_modules=QV)),
    "oft": ("llama", config(OFTConfig, r=0, oft_block_size=4, target_modules=QV)),
    "vera": ("llama", config(VeraConfig, r=4, target_modules=QV)),
    "glora": ("llama", config(GloraConfig, r=4, target_modules=QV)),
    "ln": ("llama", config(LNTuningConfig)),
}
