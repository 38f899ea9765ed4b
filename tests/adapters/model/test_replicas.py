"""Torch's wrappers for several processes or devices leave a shared base out, or refuse it. See also tests/e2e."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.nn.parallel import DataParallel, DistributedDataParallel

from symbiosis_adapters.model.heads import Head
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import UsageError
from tests.adapters.local import Pair
from tests.adapters.training import QV, adapted

IDS = torch.randint(3, 96, (2, 10), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def _alone() -> Iterator[None]:
    """A group of this process alone: all that DDP does over several it does here, too."""
    distributed.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LENT])
@pytest.mark.parametrize("find_unused", [False, True])
def test_a_wrapped_model_has_the_gradients_of_a_plain_one(cut: Cut, find_unused: bool) -> None:
    pair = Pair("llama")
    gradients = []
    for base in (pair.remote(cut), pair.plain()):
        model = adapted(base)
        wrapped = DistributedDataParallel(model, find_unused_parameters=find_unused)
        wrapped(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[1].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradients[0][name], expected, rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.usefixtures("_alone")
def test_what_is_the_clients_is_still_given_to_all() -> None:
    """The head beside the base, and what of an adapter is frozen; of the base nothing, however it is named."""
    head = Head(transformers.AutoModelForSequenceClassification, {"num_labels": 3})
    config = LoraConfig(r=4, target_modules=QV, modules_to_save=["norm"], task_type="SEQ_CLS")
    model: Any = get_peft_model(Pair("llama").remote(head=head), config)
    model.base_model.model.model.layers[0].self_attn.q_proj.lora_A.default.weight.requires_grad = False
    left_out = DistributedDataParallel(model).parameters_to_ignore
    names = dict(model.named_parameters(remove_duplicate=False))
    assert {name for name in names if isinstance(names[name], FrozenWeight)} <= left_out
    assert "base_model.model.model.layers.1.input_layernorm.original_module.weight" in left_out
    given = names.keys() - left_out
    assert {name for name in given if "lora_" in name or "score" in name or "modules_to_save" in name} == given
    assert {name for name in names if "lora_" in name or "score" in name} <= given


def test_data_parallel_is_refused_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Pair("llama").remote()
    assert DataParallel(model)(input_ids=IDS).logits.shape == (2, 10, 96)  # on none it does nothing
    its_module = sys.modules[DataParallel.__module__]
    monkeypatch.setattr(its_module, "_get_available_device_type", lambda: "cuda")
    monkeypatch.setattr(its_module, "_check_balance", lambda _: None)
    with pytest.raises(UsageError, match=r"DataParallel copies a model to 2 devices.*torchrun"):
        DataParallel(model, device_ids=[0, 1])
    DataParallel(torch.nn.Linear(2, 2), device_ids=[0, 1])
