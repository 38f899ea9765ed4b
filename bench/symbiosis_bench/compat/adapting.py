"""Puts a method on a model, the same way whether the model is plain or remote.

Most methods are `get_peft_model` with a configuration. The rest have a recipe here, under the name that `methods`
gives it: what of the model their configuration names, or what PEFT's documentation has users call besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import BdLoraConfig, CordaConfig, KasaConfig, MontecloraConfig, VeloraConfig
from peft.tuners.lora.loraga import preprocess_loraga
from transformers import PreTrainedModel

from symbiosis_bench.compat import anatomy
from symbiosis_bench.compat.batches import batch
from symbiosis_bench.compat.methods import Method

__all__ = ["adapt", "beside"]

_SPREAD = 0.05
"""Of what is added to what is trained, so that no method is still a no-op when it is compared."""

Naming = Callable[[PreTrainedModel], dict[str, Any]]


def adapt(model: PreTrainedModel, method: Method, folder: Path) -> Any:
    """Returns the adapted model. The same seed gives the same adapter.

    `folder` is there for the method's files; what one call has left there the next may find.
    """
    torch.manual_seed(3)
    namings = [_NAMING[name] for name in (method.recipe, method.also) if name in _NAMING]
    config = _config(method, {key: value for naming in namings for key, value in naming(model).items()})
    applying = _APPLYING.get(method.recipe)
    adapted = applying(model, config, folder) if applying is not None else get_peft_model(model, config)
    _spread(adapted)
    return adapted


def beside(method: Method) -> dict[str, torch.Tensor]:
    """Returns what a method's forward is given beside the batch."""
    return {"task_ids": torch.tensor([0, 1])} if method.recipe == "tasks" else {}


def _config(method: Method, named: dict[str, Any]) -> PeftConfig:
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.tuner)]
    return kind(task_type="CAUSAL_LM", **{**method.fields, **named})


def _spread(model: Any) -> None:
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=_SPREAD)


_NAMING: dict[str, Naming] = {
    "attention": lambda model: {"target_modules": anatomy.queries(model)},
    "layers": lambda model: {"target_modules": anatomy.linears(model)},
    "patterns": lambda model: {
        "rank_pattern": {anatomy.linears(model)[0]: 2},
        "alpha_pattern": {anatomy.linears(model)[-1]: 16},
    },
    "head": lambda model: {"target_modules": [*anatomy.linears(model), anatomy.head(model)]},
    "embedding": lambda model: {"target_modules": [*anatomy.linears(model), anatomy.table(model)]},
    "saved norms": lambda model: {"modules_to_save": anatomy.outer_norms(model)},
    "saved head": lambda model: {"modules_to_save": [anatomy.head(model)]},
    "parameters": lambda model: {"target_parameters": anatomy.experts(model)},
    "norms": lambda model: {"target_modules": anatomy.norms(model)},
    "ia3": lambda model: {
        "target_modules": anatomy.linears(model),
        "feedforward_modules": anatomy.linears(model)[-1:],
    },
    "loftq": lambda model: {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
    "eva": lambda model: {"eva_config": peft.EvaConfig()},
    "corda": lambda model: {"target_modules": anatomy.linears(model), "corda_config": CordaConfig()},
    "lora-ga": lambda model: {"target_modules": anatomy.linears(model), "lora_ga_config": peft.LoraGAConfig()},
    "kasa": lambda model: {"kasa_config": KasaConfig()},
    "velora": lambda model: {"velora_config": VeloraConfig(num_groups=4)},
    "monteclora": lambda model: {"monteclora_config": MontecloraConfig(num_samples=4)},
    "bdlora": lambda model: {
        "use_bdlora": BdLoraConfig(target_modules_bd_a=anatomy.linears(model)[:1], nblocks=2, match_strict=False)
    },
    "cpt": lambda model: {
        "cpt_token_ids": [3, 4, 5, 6],
        "cpt_mask": [1] * 4,
        "cpt_tokens_type_mask": [1, 2, 3, 4],
    },
    "blocks": lambda model: {"target_modules": rf".*{re.escape(anatomy.blocks(model))}\.\d+"},
    "heads": lambda model: {"num_attention_heads": model.config.num_attention_heads},
    "cache": lambda model: anatomy.cached(model)._asdict(),
}


def _eva(model: PreTrainedModel, config: PeftConfig, folder: Path) -> Any:
    adapted = get_peft_model(model, config)
    given = {key: value for key, value in batch().items() if key != "labels"}
    peft.initialize_lora_eva_weights(adapted, [given], show_progress_bar=False)
    return adapted


def _corda(model: PreTrainedModel, config: Any, folder: Path) -> Any:
    # PEFT 0.21 needs attrs for this one, and does not require it.
    from peft.tuners.lora.corda import preprocess_corda

    def run() -> None:
        given = batch()
        with torch.no_grad():
            for row in range(len(given["input_ids"])):  # of PEFT 0.21's hook: one sample at a time
                model(**{key: value[row : row + 1] for key, value in given.items()})

    preprocess_corda(model, config, run_model=run)
    return get_peft_model(model, config)


def _lora_ga(model: PreTrainedModel, config: Any, folder: Path) -> Any:
    preprocess_loraga(model, config, lambda: model(**batch()).loss.backward())
    return get_peft_model(model, config)


def _xlora(model: PreTrainedModel, config: Any, folder: Path) -> Any:
    """Mixes two adapters, which the first call, on the plain model, leaves in `folder`."""
    adapters = {str(each): str(folder / f"expert-{each}") for each in range(2)}
    if not any(folder.glob("expert-*")):
        expert = peft.LoraConfig(r=2, target_modules=anatomy.queries(model), task_type="CAUSAL_LM")
        first: Any = get_peft_model(model, expert)
        for path in adapters.values():
            _spread(first)
            first.save_pretrained(path)
        model = first.unload()
        torch.manual_seed(3)  # else the call that left them would begin with other random numbers than the next
    model.config.use_cache = False
    config.adapters = adapters
    return get_peft_model(model, config)


_APPLYING: dict[str, Callable[[PreTrainedModel, Any, Path], Any]] = {
    "eva": _eva,
    "corda": _corda,
    "lora-ga": _lora_ga,
    "xlora": _xlora,
}
