"""Asks transformers and bitsandbytes for a model in four bits, and says which of its models can be lent.

Bitsandbytes is an extra. It is imported where somebody asks for a base in four bits, and nowhere else.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from symbiosis_core.errors import UsageError

__all__ = ["nf4_config", "prepare_nf4"]


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Returns what has transformers quantise a model while it is loaded: doubly, and computed in `dtype`.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError('quantize = "nf4" needs bitsandbytes; install it: pip install "symbiosis-llm[nf4]"')
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def prepare_nf4(model: PreTrainedModel, dtype: torch.dtype) -> str:
    """Returns why a model that bitsandbytes quantised cannot be lent in `dtype`; empty: it is ready to be.

    On processors with bfloat16 a linear of bitsandbytes packs its weight anew, in place, at the first forward that
    needs no gradient. That is switched off: the weight stays as it is, for both directions.
    """
    import bitsandbytes

    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if not isinstance(weight, bitsandbytes.nn.Params4bit | bitsandbytes.nn.Int8Params):
            continue
        state = getattr(weight, "quant_state", None)
        if type(module) is not bitsandbytes.nn.Linear4bit or state is None or state.quant_type != "nf4":
            return f"in a way that is not lent: {name} is a {type(module).__name__}, and no linear in nf4"
        if state.dtype != dtype:
            made_from = str(state.dtype).removeprefix("torch.")
            return f"from weights in {made_from}: with dtype {made_from} it can be lent"
        module.support_avx512bf16_for_cpu = False
    return ""
