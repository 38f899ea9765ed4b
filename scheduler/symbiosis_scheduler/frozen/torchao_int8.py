"""Asks transformers and torchao for a model in eight bits, and says which quantised models can be lent.

Torchao is an extra. It is imported where somebody asks for a quantised base, and nowhere else.
"""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel, TorchAoConfig

from symbiosis_core.errors import UsageError

__all__ = ["int8_config", "unlendable_int8"]


def int8_config() -> TorchAoConfig:
    """Returns what has transformers quantise a model while it is loaded.

    Raises:
        UsageError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig
    except ImportError as error:
        raise UsageError(
            'quantize = "int8" needs torchao; install it: pip install "symbiosis-llm[int8]"'
        ) from error
    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


def unlendable_int8(model: PreTrainedModel) -> str:
    """Returns why a model that torchao quantised cannot be lent; empty: it can."""
    from torchao.quantization import Int8Tensor

    for name, parameter in model.named_parameters():
        lendable = isinstance(parameter, Int8Tensor) and _weight_only(parameter)
        if is_traceable_wrapper_subclass(parameter) and not lendable:
            return f"in a way that is not lent: {name} is a {type(parameter).__name__}"
    return ""


def _weight_only(weight: Any) -> bool:
    """Whether rows go in as they are, and every output has one scale."""
    as_they_are = weight.act_quant_kwargs is None and weight.act_pre_scale is None
    return as_they_are and weight.ndim == 2 and weight.scale.numel() == weight.shape[0]
