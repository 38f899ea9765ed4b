"""The methods that are tried: every tuner of PEFT, and of LoRA every variant that has a switch of its own.

Data only: nothing here imports PEFT. `tests/bench/compat/test_methods.py` holds that no tuner of the installed
PEFT is missing. Sizes fit `families`: widths of 16, 32 and 64, two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

__all__ = ["METHODS", "QUICK_METHODS", "Group", "Method"]


class Group(StrEnum):
    """A part of the table."""

    LORA = "LoRA and its variants"
    WEIGHTS = "Other tuners of layers"
    INPUTS = "Prompts, prefixes and tokens"


class Method(NamedTuple):
    """One column."""

    group: Group
    tuner: str
    """Its `PeftType`."""
    fields: Mapping[str, Any]
    """Of its configuration. `adapting` adds what only the model can tell, such as which layers there are."""
    recipe: str = ""
    """How it is put on, where `get_peft_model` alone is not enough: see `adapting`."""
    otherwise: str = ""
    """What is named besides in a family where plain PEFT fails without it: a recipe of `adapting`, too."""
    also: str = ""
    """What is named besides: empty, or `otherwise`."""


_RANK: Final = 4
_ALL: Final[dict[str, Any]] = {"target_modules": "all-linear"}
_LORA: Final[dict[str, Any]] = {**_ALL, "r": _RANK}
_VIRTUAL: Final[dict[str, Any]] = {"num_virtual_tokens": 4}
_FEWER: Final = "attention"
"""Not every linear can take every method: experts are no linears, and a gate may have one output only."""
_OWN_TARGETS: Final = ("layers", "head", "embedding")
"""Recipes whose targets are what the method is about."""
_CACHED: Final = ("PREFIX_TUNING", "CARTRIDGE")


def _lora(recipe: str = "", **fields: Any) -> Method:
    return Method(Group.LORA, "LORA", {**_LORA, **fields}, recipe, _FEWER if recipe not in _OWN_TARGETS else "")


def _layers(tuner: str, recipe: str = "", **fields: Any) -> Method:
    return Method(Group.WEIGHTS, tuner, {**_ALL, **fields}, recipe, _FEWER)


def _inputs(tuner: str, recipe: str = "", **fields: Any) -> Method:
    return Method(Group.INPUTS, tuner, fields, recipe, "cache" if tuner in _CACHED else "heads")


METHODS: Final[dict[str, Method]] = {
    "lora": Method(Group.LORA, "LORA", {"r": _RANK}, "attention"),
    "lora all": _lora(),
    "rslora": _lora(use_rslora=True),
    "lora dropout": _lora(lora_dropout=0.2),
    "lora bias": _lora(lora_bias=True),
    "lora layer": _lora("layers", layers_to_transform=[1]),
    "lora patterns": _lora("patterns"),
    "lora head": _lora("head"),
    "lora embedding": _lora("embedding"),
    "bias=all": _lora(bias="all"),
    "saved norms": _lora("saved norms"),
    "saved head": _lora("saved head"),
    "parameters": Method(Group.LORA, "LORA", {"r": _RANK, "target_modules": []}, "parameters"),
    "lora tokens": _lora(trainable_token_indices=[5, 7]),
    "replicated": _lora(layer_replication=[[0, 2], [1, 2]]),
    "gaussian": _lora(init_lora_weights="gaussian"),
    "orthogonal": _lora(init_lora_weights="orthogonal"),
    "dora": _lora(use_dora=True),
    "pissa": _lora(init_lora_weights="pissa"),
    "olora": _lora(init_lora_weights="olora"),
    "pissa niter": _lora(init_lora_weights="pissa_niter_4"),
    "mica": _lora(init_lora_weights="mica"),
    "loftq": _lora("loftq", init_lora_weights="loftq"),
    "eva": _lora("eva", init_lora_weights="eva"),
    "corda": _lora("corda", init_lora_weights="corda"),
    "lora-ga": _lora("lora-ga", init_lora_weights="lora_ga"),
    "kasa": _lora("kasa"),
    "velora": _lora("velora"),
    "monteclora": _lora("monteclora"),
    "bdlora": _lora("bdlora"),
    "alora": _lora(alora_invocation_tokens=[6]),
    "adalora": _layers("ADALORA", init_r=6, target_r=_RANK, total_step=10),
    "ia3": _layers("IA3", "ia3"),
    "loha": _layers("LOHA", r=_RANK),
    "lokr": _layers("LOKR", r=_RANK),
    "oft": _layers("OFT", oft_block_size=4),
    "boft": _layers("BOFT", boft_block_size=4),
    "hra": _layers("HRA", r=_RANK),
    "vera": _layers("VERA", r=8),
    "pvera": _layers("PVERA", r=8),
    "vblora": _layers("VBLORA", r=_RANK, num_vectors=16, vector_length=16),
    "randlora": _layers("RANDLORA", r=_RANK),
    "fourierft": _layers("FOURIERFT", n_frequency=16),
    "waveft": _layers("WAVEFT", n_frequency=16),
    "ln tuning": Method(Group.WEIGHTS, "LN_TUNING", {}, "norms"),
    "miss": _layers("MISS", r=_RANK),
    "shira": _layers("SHIRA", r=2, random_seed=0),
    "c3a": _layers("C3A", block_size=8),
    "road": _layers("ROAD", group_size=8),
    "osf": _layers("OSF", effective_rank=_RANK),
    "delora": _layers("DELORA", r=_RANK),
    "deft": _layers("DEFT", r=_RANK),
    "gralora": _layers("GRALORA", r=_RANK, alpha=8),
    "glora": _layers("GLORA", r=_RANK),
    "hira": _layers("HIRA", r=_RANK),
    "lily": _layers("LILY", r=_RANK),
    "peanut": _layers("PEANUT", r=_RANK),
    "psoft": _layers("PSOFT", r=_RANK),
    "frod": _layers("FROD", progressbar=False),
    "adamss": _layers("ADAMSS", r=8, num_subspaces=2),
    "beft": _layers("BEFT"),
    "tinylora": _layers("TINYLORA", u=4),
    "unilora": _layers("UNILORA", r=_RANK, theta_d_length=64),
    "supertuning": _layers("SUPERTUNING", sparsity=0.9),
    "shadow": Method(Group.WEIGHTS, "SHADOW", {"r": _RANK}, otherwise="blocks"),
    "poly": _layers("POLY", "tasks", r=_RANK, n_tasks=2, n_skills=2),
    "xlora": Method(Group.WEIGHTS, "XLORA", {"hidden_size": 32, "xlora_size": 16}, "xlora"),
    "prompt": _inputs("PROMPT_TUNING", **_VIRTUAL),
    "multitask prompt": _inputs("MULTITASK_PROMPT_TUNING", "tasks", num_tasks=2, **_VIRTUAL),
    "p-tuning": _inputs("P_TUNING", encoder_hidden_size=16, **_VIRTUAL),
    "prefix": _inputs("PREFIX_TUNING", **_VIRTUAL),
    "prefix projected": _inputs("PREFIX_TUNING", prefix_projection=True, encoder_hidden_size=16, **_VIRTUAL),
    "cartridge": _inputs("CARTRIDGE", **_VIRTUAL),
    "adaption prompt": Method(Group.INPUTS, "ADAPTION_PROMPT", {"adapter_len": 4, "adapter_layers": 1}),
    "cpt": _inputs("CPT", "cpt"),
    "tokens": Method(Group.INPUTS, "TRAINABLE_TOKENS", {"token_indices": [5, 7]}),
}
"""Columns by their headings."""

QUICK_METHODS: Final = ("lora", "lora all", "ia3", "vera", "prefix")
"""Those of `--quick`."""
