"""The two ways to hold a base in fewer bits, and the same quantised model as anybody would load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import torch
from transformers import AutoModelForCausalLM

KINDS: Final = {"int8": "torchao", "nf4": "bitsandbytes"}
"""What `quantize` can be, and the package that does it."""


@pytest.fixture(params=KINDS, scope="module")
def quantize(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    pytest.importorskip(KINDS[kind], reason=f"the extra {kind} is not installed")
    return kind


def config_of(quantize: str, dtype: torch.dtype) -> Any:
    """What the daemon gives transformers for it."""
    if quantize == "int8":
        from symbiosis_scheduler.frozen.torchao_int8 import int8_config

        return int8_config()
    from symbiosis_scheduler.frozen.bitsandbytes_nf4 import nf4_config

    return nf4_config(dtype)


def local_model(
    path: str | Path, quantize: str, dtype: torch.dtype, auto: Any = AutoModelForCausalLM, **more: Any
) -> Any:
    """The quantised model in this process, without a daemon. `more` is what its head is told."""
    model = auto.from_pretrained(path, dtype=dtype, quantization_config=config_of(quantize, dtype), **more)
    for module in model.modules():
        # On a processor with bfloat16, bitsandbytes multiplies rows without a gradient in bfloat16, with scales in
        # bfloat16, and fails for narrow layers. What it does with a gradient, and elsewhere, is what is compared.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False
    return model
