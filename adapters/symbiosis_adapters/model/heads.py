"""What stands on top of a base: its own language model head, another one that is the client's, or nothing.

The daemon holds a causal language model and names everything by its paths. A model with another head has the same
base inside, under a prefix of its own; what the daemon holds besides is not there, and what stands besides the
base here, such as a classifier, is this process's own: initialized as `from_pretrained` of transformers does,
trained and saved here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from symbiosis_core.errors import UsageError

__all__ = ["CAUSAL_LM", "Head", "Places", "loading_info"]


class Head(NamedTuple):
    """Which of transformers' Auto classes makes the model, and what its configuration says about the head."""

    auto: Any
    fields: dict[str, Any]
    """What a configuration says in its place."""
    config: PretrainedConfig | None = None
    """In the place of the daemon's."""

    def model(self, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        """Returns the model of that configuration, on the device that is current.

        Raises:
            UsageError: transformers has no such head for this kind of model.
        """
        try:
            if self.auto is transformers.AutoModelForCausalLM and (alone := _part_of_another(config)) is not None:
                model = alone._from_config(config, dtype=dtype)
            else:
                model = self.auto.from_config(config, dtype=dtype)
        except ValueError as error:
            raise UsageError(
                f"transformers {transformers.__version__} has no {self.auto.__name__} for a base of model type "
                f"{config.model_type!r}; put a head of your own on AutoModel"
            ) from error
        assert isinstance(model, PreTrainedModel)
        return model


def _part_of_another(config: PretrainedConfig) -> Any:
    """Returns the language model of a kind that has none of its own, only within another kind; else None.

    Such as that of Mllama, which reads text and pictures: what the daemon loads of it is the text's.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    for whole in MODEL_FOR_CAUSAL_LM_MAPPING:
        if type(config) in whole.sub_configs.values():
            model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[whole]
            if model.config_class is type(config):
                return model
    return None


CAUSAL_LM: Final = Head(transformers.AutoModelForCausalLM, {})


class Places:
    """Where in a model stands what the daemon names."""

    def __init__(self, model: PreTrainedModel) -> None:
        causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config), None)
        self._model = model
        self._same = causal is None or isinstance(model, causal)
        self._there = f"{causal.base_model_prefix}." if causal is not None else ""
        self._here = "" if model.base_model is model else f"{model.base_model_prefix}."

    def path(self, name: str) -> str | None:
        """Returns the path here of a module or tensor of the daemon; None for one beside the base."""
        if self._same:
            return name
        return self._here + name.removeprefix(self._there) if name.startswith(self._there) else None

    def initialize_head(self) -> None:
        """Gives values to what stands beside the base, with torch's random numbers."""
        for module in self.beside():
            for name, parameter in module.named_parameters(recurse=False):
                values = torch.empty_like(parameter, device="cpu")
                module.register_parameter(name, nn.Parameter(values, requires_grad=parameter.requires_grad))
            self._model._init_weights(module)

    def beside(self) -> Iterator[nn.Module]:
        """Yields the modules with parameters that stand beside the base; none in a causal language model."""
        if self._same:
            return
        base = {id(module) for module in self._model.base_model.modules()}
        for module in self._model.modules():
            if id(module) not in base and any(True for _ in module.parameters(recurse=False)):
                yield module


def loading_info(model: PreTrainedModel) -> dict[str, Any]:
    """Returns what `from_pretrained(output_loading_info=True)` tells: all came from the base, but for the head."""
    heads = {id(module) for module in Places(model).beside()}
    missing = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if id(module) in heads
        for name, _ in module.named_parameters(recurse=False)
    }
    return {"missing_keys": missing, "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
