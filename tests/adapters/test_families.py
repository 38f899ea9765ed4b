"""Families beside those that the other tests use: a client trains and generates as the plain model does.

The scoreboard tries every family with every method; this is what each run of the tests holds.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symbiosis_adapters.trips.cut import Cut
from symbiosis_bench.compat.families import FAMILIES, shape_of
from tests.adapters.local import Pair
from tests.adapters.training import Run, adapt, logits, lora, tokens

_OPT = {**FAMILIES["opt"], "dropout": 0.0}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, FAMILIES[name])
        for name in ("mistral", "qwen3", "gemma2", "phi", "gpt_neox", "bloom", "mixtral", "qwen3_moe")
    },
    **{name: (name, shape_of(name)) for name in ("jamba", "qwen3_next", "qwen4_exp_text", "mllama", "xlnet")},
    "gpt_neox, one after the other": ("gpt_neox", {**FAMILIES["gpt_neox"], "use_parallel_residual": False}),
    "opt, projected embeddings": ("opt", {**_OPT, "word_embed_proj_dim": 16}),
    "opt, norms afterwards": ("opt", {**_OPT, "do_layer_norm_before": False}),
    "falcon, new decoder": (
        "falcon",
        {**FAMILIES["falcon"], "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    ),
    "falcon, one after the other": ("falcon", {**FAMILIES["falcon"], "parallel_attn": False, "alibi": True}),
}
"""A `model_type`, and what its configuration says."""


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")  # PEFT's, of experts
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("name", SHAPES)
def test_training_and_generation_equal_the_plain_model(name: str, cut: Cut) -> None:
    family, shape = SHAPES[name]
    pair = Pair(family, shape=shape)
    make = lora("all-linear")
    plain, remote = (Run(adapt(base, make), steps=3) for base in (pair.plain(), pair.remote(cut)))
    remote.check(plain)
    torch.testing.assert_close(logits(remote.model), logits(plain.model), rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens(remote.model), tokens(plain.model))
    assert pair.rows.forward
