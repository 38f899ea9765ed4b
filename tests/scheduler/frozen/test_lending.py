"""Lent weights are the very ones that the daemon computes with: sealed, each once, and where the loan says."""

from __future__ import annotations

import copy
import os
import resource
from typing import Any

import pytest
import torch

from symbiosis_core.config import LendingConfig
from symbiosis_core.specs import Direction, DType, LentTensor, OpKind
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.lending import Lent, Withheld, place_for
from symbiosis_transports.sealed import SealedMemory, check_sealed
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.tiny_models import ARCHITECTURES, lend, loaded, tiny

CPU = torch.device("cpu")


def lendable(model: Any, dtype: DType = DType.FLOAT32, config: LendingConfig | None = None) -> FrozenLayers:
    return FrozenLayers(loaded(model, dtype), place_for(model, config or LendingConfig(), CPU))


def lent_of(layers: FrozenLayers) -> Lent:
    assert isinstance(layers.lent, Lent)
    return layers.lent


def value(lent: Lent, tensor: LentTensor) -> torch.Tensor:
    data = bytearray(os.pread(lent.memory.fd, tensor.nbytes, tensor.offset))
    return torch.frombuffer(data, dtype=torch_dtype(tensor.dtype)).view(tensor.shape)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "phimoe"])
def test_every_parameter_is_lent_with_its_values_and_nothing_is_there_twice(architecture: str) -> None:
    plain = tiny(architecture, DType.BFLOAT16, tie_word_embeddings=True)
    layers = lendable(copy.deepcopy(plain), DType.BFLOAT16)
    lent = lent_of(layers)
    check_sealed(lent.memory.fd, lent.memory.nbytes)
    expected = dict(plain.named_parameters(remove_duplicate=False))
    assert {tensor.name for tensor in lent.tensors} == expected.keys()
    for tensor in lent.tensors:
        assert torch.equal(value(lent, tensor), expected[tensor.name]), tensor.name
    places = {tensor.offset: tensor.nbytes for tensor in lent.tensors}
    assert len(places) == len(list(plain.parameters()))  # tied ones at one place
    assert lent.memory.nbytes < sum(places.values()) + 64 * len(places) + 4096


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ops_on_lent_weights_have_the_bits_of_ops_on_the_heap(architecture: str) -> None:
    plain = tiny(architecture)
    on_heap, layers = lend(copy.deepcopy(plain)), lendable(copy.deepcopy(plain))
    assert layers.spec == on_heap.spec
    assert isinstance(on_heap.lent, Withheld)
    for op in layers.spec.ops:
        if op.kind is OpKind.EMBEDDING:
            x = torch.arange(5).view(5, 1)
            assert torch.equal(layers.apply(op, Direction.FORWARD, x), on_heap.apply(op, Direction.FORWARD, x))
            continue
        for direction in Direction:
            width, _ = op.row_in(direction)
            x = torch.randn(3, width)
            assert torch.equal(layers.apply(op, direction, x), on_heap.apply(op, direction, x)), op


def test_fused_siblings_are_lent_where_the_fused_op_reads_them() -> None:
    layers = lendable(tiny("llama"))
    at = {tensor.name: tensor for tensor in lent_of(layers).tensors}
    (group,) = [
        op for op in layers.spec.ops if op.members[0].endswith("layers.0.self_attn.q_proj") and op.members[1:]
    ]
    end = at[f"{group.members[0]}.weight"].offset
    for member in group.members:
        assert at[f"{member}.weight"].offset == end
        end += at[f"{member}.weight"].nbytes


def test_weights_move_in_one_by_one() -> None:
    """So no more than one is there twice; the memory of what was moved is given back."""
    model = tiny("llama", hidden_size=512, intermediate_size=1024, num_hidden_layers=6)
    size = sum(parameter.nbytes for parameter in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert size > 32 << 20
    layers = lendable(model)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert lent_of(layers).memory.nbytes >= size
    assert grown < size / 2


@pytest.mark.parametrize(
    ("config", "device", "reason", "remedy"),
    [
        (LendingConfig(allow="nobody"), "cpu", "lends its weights to nobody", 'set lending.allow = "same_user"'),
        (LendingConfig(), "cuda:1", "holds its weights on cuda:1", "start it with --device cpu"),
    ],
)
def test_what_is_not_lent_lies_on_the_heap_and_says_why(
    config: LendingConfig, device: str, reason: str, remedy: str
) -> None:
    model = tiny("llama")
    layers = FrozenLayers(loaded(model), place_for(model, config, torch.device(device)))
    assert isinstance(layers.lent, Withheld)
    assert reason in layers.lent.reason
    assert layers.lent.remedy == remedy
    model.lm_head.weight.zero_()  # sealed memory could not be written to


@pytest.mark.parametrize("step", ["memfd_create", "ftruncate", "seal"])
def test_a_system_without_such_memory_lends_nothing_and_computes_all_the_same(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(38, "Function not implemented")

    owner = SealedMemory if step == "seal" else os
    monkeypatch.setattr(owner, step, refuse)
    layers = lendable(tiny("llama"))
    assert isinstance(layers.lent, Withheld)
    assert "Function not implemented" in layers.lent.reason
    assert "weights cannot be lent" in caplog.text
    monkeypatch.undo()
    expected = lend(tiny("llama"))
    op = layers.spec.ops[1]
    x = torch.randn(2, op.width_in)
    assert torch.equal(layers.apply(op, Direction.FORWARD, x), expected.apply(op, Direction.FORWARD, x))
