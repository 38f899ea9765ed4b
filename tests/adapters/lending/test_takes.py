"""Who only looks at lent weights takes none; of who takes some the user is told, once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from transformers import AutoModelForCausalLM
from trl.trainer.utils import hash_module

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.specs import DType
from tests.adapters.local import Pair
from tests.adapters.training import QUIET, QV, adapt, logits, lora

pytestmark = QUIET


def saved_state(model: Any, folder: Path) -> Any:
    torch.save(model.state_dict(), folder / "state.pt")
    return {name: each.sum().item() for name, each in torch.load(folder / "state.pt").items()}


LOOKS: dict[str, Callable[[Any, Path], Any]] = {
    "hash": lambda model, _: hash_module(model),
    "numpy": lambda model, _: [each.detach().numpy().sum() for each in model.parameters()],
    "asarray": lambda model, _: [np.asarray(each.detach()).sum() for each in model.parameters()],
    "bytes": lambda model, _: [each.untyped_storage().nbytes() for each in model.parameters()],
    "torch.save": saved_state,
    "memory": lambda model, _: model.get_memory_footprint(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_gives_what_plain_weights_give_and_takes_none(
    look: Callable[[Any, Path], Any], pair: Pair, tmp_path: Path
) -> None:
    plain, ours = pair.plain(), pair.remote()
    assert look(ours, tmp_path) == look(plain, tmp_path)
    assert explain(ours).taken == ()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_a_base_is_saved_as_a_plain_one_and_goes_on_making_its_trips(architecture: str, tmp_path: Path) -> None:
    pair = Pair(architecture)
    ours = pair.remote()
    before = logits(ours)
    ours.save_pretrained(tmp_path)
    assert explain(ours).taken == ()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(loaded), logits(pair.plain()), rtol=1e-5, atol=1e-6)
    pair.rows.trips.clear()
    assert torch.equal(logits(ours), before)
    assert pair.rows.trips


def test_a_base_in_bfloat16_has_the_hash_of_a_plain_one() -> None:
    pair = Pair("llama", dtype=DType.BFLOAT16)
    ours = pair.remote()
    assert hash_module(ours) == hash_module(pair.plain())
    assert explain(ours).taken == ()


@pytest.mark.parametrize("copied", [torch.clone, torch.Tensor.clone, copy.deepcopy])
def test_a_copy_of_a_tied_weight_is_saved_beside_it(
    copied: Callable[[torch.Tensor], torch.Tensor], pair: Pair, tmp_path: Path
) -> None:
    """A file of safetensors holds no memory twice, so PEFT clones all but one; X-LoRA saves the base's so."""
    ours = pair.remote()
    state = {name: ours.state_dict()[f"{name}.weight"] for name in ("model.embed_tokens", "lm_head")}
    assert state["lm_head"].data_ptr() == state["model.embed_tokens"].data_ptr()
    state["lm_head"] = copied(state["lm_head"])
    assert state["lm_head"].untyped_storage().data_ptr() != state["model.embed_tokens"].data_ptr()
    assert state["lm_head"].T.data_ptr() == state["lm_head"].data_ptr()
    save_file(state, tmp_path / "state.safetensors")
    expected = pair.plain().lm_head.weight
    assert all(torch.equal(each, expected) for each in load_file(tmp_path / "state.safetensors").values())
    assert explain(ours).taken == ()


def test_what_is_shown_cannot_be_written_to_unnoticed(pair: Pair) -> None:
    shown = pair.remote().lm_head.weight.detach().numpy()
    with pytest.raises(ValueError, match="read-only"):
        shown[0] = 1.0


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "symbiosis.adapters.weights.takes"]


def test_an_average_takes_the_whole_base_and_the_log_says_so_once(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Tied to the table, the head is one weight with it."""
    model = adapt(pair.remote(), lora(QV))
    average = AveragedModel(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            average.update_parameters(model)
            logits(model)
            logits(average.module)
    taken = {name: each for name, each in pair.plain().named_parameters() if each.ndim == 2}
    megabytes = round(sum(each.nbytes for each in taken.values()) / 1e6, 1)
    [line] = told(caplog)
    assert f"weights={len(taken)} megabytes={megabytes} " in line
    assert f"{__name__}.test_an_average" in line
    assert explain(model).taken == ()


def test_the_log_tells_again_only_when_much_more_is_taken(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    model = pair.remote()
    layers = model.model.layers
    with caplog.at_level(logging.WARNING), torch.no_grad():
        layers[0].self_attn.k_proj.weight.mul_(1.0)
        assert told(caplog) == [], "before a forward it is not known what belongs to it"
        logits(model)
        assert len(told(caplog)) == 1
        layers[1].self_attn.k_proj.weight.mul_(1.0)
        logits(copy.deepcopy(model))
        assert len(told(caplog)) == 1
        layers[2].mlp.up_proj.weight.mul_(1.0)
        logits(model)
    assert [line.split("weights=")[1].split()[0] for line in told(caplog)] == ["1", "3"]


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.LENT])
def test_whoever_takes_nothing_is_told_nothing(cut: Cut, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        logits(adapt(pair.remote(cut), lora(QV, use_dora=True)))
    assert told(caplog) == []


@pytest.mark.parametrize(
    "copy_of",
    [
        torch.clone,
        lambda weight: weight.to(torch.float32, copy=True),
        lambda weight: weight.to("cpu", torch.float32, False, True),
        lambda weight: weight.data.to(torch.zeros(1), copy=True),
    ],
)
def test_a_copy_that_is_written_to_is_no_layers(
    copy_of: Callable[[torch.Tensor], torch.Tensor], pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    ours = pair.remote()
    before = logits(ours)
    copied = copy_of(ours.model.layers[0].mlp.up_proj.weight)
    copied.mul_(2)
    assert not isinstance(copied, FrozenWeight)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(logits(ours), before)
    assert caplog.records == []
    assert explain(ours).taken == ()


def test_a_part_that_is_set_to_another_part_has_its_values(pair: Pair) -> None:
    weight = pair.remote().lm_head.weight.data
    first, second = weight[0:2], weight[2:4]
    first.data = second
    assert torch.equal(first, pair.plain().lm_head.weight[2:4])


def test_a_copy_of_a_bias_has_an_address_also_where_nobody_lends() -> None:
    """The daemon computes it: it is what a linear makes of zeros."""
    pair = Pair("gpt2", allow="nobody")
    bias, expected = (model.transformer.h[0].attn.c_proj.bias for model in (pair.remote(), pair.plain()))
    copied = bias.clone()
    assert copied.data_ptr() != bias.data_ptr()
    torch.testing.assert_close(copied * 1, expected.detach())
