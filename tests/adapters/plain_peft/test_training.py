"""Unmodified PEFT on a remote base gives what it gives on a plain one: losses, gradients, tokens."""

from __future__ import annotations

import pytest
import torch

from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.specs import DType
from tests.adapters.local import Pair
from tests.adapters.plain_peft.methods import CASES
from tests.adapters.training import QUIET, Run, adapt, logits, lora, tokens

pytestmark = QUIET

CUTS = [Cut.GRAPH, Cut.SIBLINGS]
APART = ["lora all", "lora opt", "ia3", "adalora"]
"""Cases for the linear cut, too; it is the one that siblings fall back to."""


@pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning")
@pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm")
@pytest.mark.parametrize(
    ("name", "cut"), [*((name, cut) for name in CASES for cut in CUTS), *((name, Cut.LINEAR) for name in APART)]
)
def test_training_and_generation_equal_plain_peft(name: str, cut: Cut) -> None:
    arch, make = CASES[name]
    pair = Pair(arch)
    plain, remote = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    remote.check(plain)
    torch.testing.assert_close(logits(remote.model), logits(plain.model), rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens(remote.model), tokens(plain.model))


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_result(reentrant: bool, cut: Cut) -> None:
    pair = Pair("llama")
    runs = []
    for model in (pair.plain(), pair.remote(cut)):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        runs.append(Run(adapt(model, lora("all-linear", lora_dropout=0.1))))
    runs[1].check(runs[0])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["lora random", "ia3", "prefix"])
def test_a_bfloat16_base_agrees_within_its_precision(name: str, cut: Cut) -> None:
    pair = Pair("llama", DType.BFLOAT16)
    make = CASES[name][1]
    plain, remote = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    remote.check_roughly(plain)
    assert all(p.dtype == torch.bfloat16 for n, p in remote.model.named_parameters() if "base_layer" in n)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("name", "base", "autocast"),
    [
        ("lora random", DType.FLOAT32, torch.bfloat16),
        ("lora random", DType.BFLOAT16, torch.bfloat16),
        ("lora random", DType.FLOAT32, torch.float16),
        ("lora qwen2", DType.FLOAT32, torch.bfloat16),
        ("ia3", DType.FLOAT32, torch.bfloat16),
        ("prefix", DType.FLOAT32, torch.bfloat16),
    ],
)
def test_autocast_agrees_within_its_precision(name: str, base: DType, autocast: torch.dtype, cut: Cut) -> None:
    architecture, make = CASES[name]
    pair = Pair(architecture, base)
    plain = Run(adapt(pair.plain(), make), autocast=autocast)
    Run(adapt(pair.remote(cut), make), autocast=autocast).check_roughly(plain)
