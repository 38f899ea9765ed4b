"""What needs the base's real weights, and what the daemon holds of them."""

from __future__ import annotations

import os
from collections.abc import Callable

from peft import IA3Config, OFTConfig, PeftConfig

from symbiosis_scheduler.frozen.lending import Lent
from tests.adapters.local import Pair
from tests.adapters.training import QV, config, lora

Make = Callable[[], PeftConfig]
READING: dict[str, tuple[str, Make]] = {
    "dora": ("llama", lora(QV, use_dora=True)),
    "dora all": ("qwen2", lora("all-linear", use_dora=True, lora_dropout=0.1)),
}
"""Methods that read the base and leave it as it is."""
CHANGING: dict[str, tuple[str, Make]] = {
    "dora gpt2": ("gpt2", lora(["c_attn"], use_dora=True, fan_in_fan_out=True)),
    "pissa": ("llama", lora(QV, init_lora_weights="pissa")),
    "pissa gpt2": ("gpt2", lora(["c_attn", "c_fc"], init_lora_weights="pissa", fan_in_fan_out=True)),
    "olora": ("llama", lora("all-linear", init_lora_weights="olora")),
    "saved head": ("llama", lora(QV, modules_to_save=["lm_head"])),
    "bias": ("qwen2", lora(["q_proj"], bias="all")),
}
"""Methods that change it, or train a part of it."""
MERGED: dict[str, Make] = {
    "lora": lora("all-linear", init_lora_weights=False),
    "dora": lora(QV, init_lora_weights=False, use_dora=True),
    "ia3": config(IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "oft": config(OFTConfig, r=0, oft_block_size=4, target_modules=QV),
    "embedding": lora([*QV, "embed_tokens"], init_lora_weights=False),
}


def lent_bytes(pair: Pair) -> bytes:
    """What the daemon holds at this moment."""
    lent = pair.rows.layers.lent
    assert isinstance(lent, Lent)
    return os.pread(lent.memory.fd, lent.memory.nbytes, 0)
