"""Where plain PEFT cannot do a method as the table has it, both sides get the same, more exact configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from symbiosis_bench.compat.adapting import adapt
from symbiosis_bench.compat.families import VOCABULARY, shape_of
from symbiosis_bench.compat.methods import METHODS


def model_of(family: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **shape_of(family), vocab_size=VOCABULARY)
    )
    return model


@pytest.mark.parametrize(
    ("family", "method", "field", "named"),
    [
        ("mixtral", "dora", "target_modules", {"q_proj", "v_proj"}),
        ("mpt", "prompt", "num_attention_heads", 4),
        ("falcon", "prefix", "token_dim", 8),
        ("mpt", "shadow", "target_modules", r".*transformer\.blocks\.\d+"),
    ],
)
def test_more_is_named_as_a_user_would(
    family: str, method: str, field: str, named: object, tmp_path: Path
) -> None:
    known = METHODS[method]
    exact = adapt(model_of(family), known._replace(also=known.otherwise), tmp_path)
    assert getattr(exact.peft_config["default"], field) == named


def test_what_a_method_is_about_is_never_replaced() -> None:
    assert {name for name, method in METHODS.items() if method.tuner == "LORA" and not method.otherwise} == {
        *("lora", "lora layer", "lora head", "lora embedding", "parameters")
    }
