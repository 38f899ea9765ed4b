"""A family's base: a tiny random model in a folder, and a daemon on it. Runs in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import uvloop
from transformers import AutoConfig, AutoModelForCausalLM

from symbiosis_bench.compat.families import VOCABULARY
from symbiosis_bench.compat.forks import Say
from symbiosis_core.config import DaemonConfig
from symbiosis_core.specs import DType
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.daemon import serve
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.lending import place_for
from symbiosis_scheduler.frozen.loading import load
from symbiosis_scheduler.policies import make_policy
from symbiosis_transports.claim import AddressClaim

__all__ = ["READY", "lend"]

READY = b"ready"
_MOST_WEIGHTS = 20_000_000
_SPREAD = 0.1
"""Of what is added to every weight: biases and norms, too, are to matter, and no two logits to be close."""


def lend(family: str, shape: Mapping[str, Any], folder: Path, address: str, say: Say) -> None:
    """Makes the base in `folder` and serves it at `address` until it is told to end; says `READY`, or why not."""
    config = DaemonConfig()
    try:
        _make(family, shape, folder)
        loaded = load(str(folder), DType.FLOAT32)
        layers = FrozenLayers(loaded, place_for(loaded.model, config.lending, torch.device("cpu")))
    except Exception as error:
        say(f"{type(error).__name__}: {error}".replace("\n", " ").encode())
        raise
    claim = AddressClaim(address)
    claim.take()
    try:
        served = serve(
            Bases([layers]), [address], config, make_policy(config), ThreadChoice(1), on_ready=lambda: say(READY)
        )
        uvloop.run(served)
    finally:
        claim.give_back()


def _make(family: str, shape: Mapping[str, Any], folder: Path) -> None:
    config = AutoConfig.for_model(
        family, **shape, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    _check_small(config)
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=_SPREAD)
    model.save_pretrained(folder)


def _check_small(config: Any) -> None:
    """Raises ValueError for a model that the family's shape has left large."""
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config, dtype=torch.float32).num_parameters()
    if weights > _MOST_WEIGHTS:
        raise ValueError(f"{weights} weights: the shape does not say all of its sizes")
