"""Weights that move to another place keep their views and ties, and leave no copy behind.

The place is the CPU again: every machine has one, and a `Relocation` copies to it as to any other.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from symbiosis_core.specs import Direction, DType, OpKind
from symbiosis_scheduler.frozen.weights import Relocation
from tests.scheduler.tiny_models import borrow, lend, tiny

CPU = torch.device("cpu")


def lent_parameters(model: Any, layers: Any) -> dict[str, torch.Tensor]:
    members = {member for op in layers.spec.ops for member in op.members}
    return {
        f"{member}.{name}": parameter
        for member in sorted(members)
        for name, parameter in model.get_submodule(member).named_parameters(recurse=False)
    }


def places(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items()}


def test_views_of_one_memory_are_views_of_one_memory_there() -> None:
    whole = torch.arange(24, dtype=torch.float32).view(4, 6)
    views = [whole, whole[1:3], whole.t(), whole[:, 2], whole.view(torch.int32)]
    moved = Relocation(CPU)
    copies = [moved(view) for view in views]
    for view, moved_view in zip(views, copies, strict=True):
        assert torch.equal(view, moved_view)
        assert (view.dtype, view.stride()) == (moved_view.dtype, moved_view.stride())
        assert view.data_ptr() - whole.data_ptr() == moved_view.data_ptr() - copies[0].data_ptr()
    assert len({tensor.untyped_storage().data_ptr() for tensor in [*copies, whole]}) == 2
    copies[0][1, 2] = -1.0
    assert copies[2][2, 1] == copies[1][0, 2] == copies[3][1] == -1.0
    assert whole[1, 2] == 8.0


def test_tensors_that_come_and_go_are_not_taken_for_each_other() -> None:
    """Each next one would lie where the one before did, were it not kept."""
    moved = Relocation(CPU)
    copies = [moved(torch.full((1000,), float(number))) for number in range(20)]
    assert [tensor[0].item() for tensor in copies] == [float(number) for number in range(20)]


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16], ids=lambda dtype: dtype.name.lower())
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen2"])
def test_a_model_whose_weights_have_moved_gives_the_same_logits(architecture: str, dtype: DType) -> None:
    plain = tiny(architecture, dtype)
    layers = lend(copy.deepcopy(plain), dtype)
    ids = torch.arange(14).view(2, 7)
    alone, together = (borrow(plain, layers, siblings=siblings)(ids).logits for siblings in (False, True))
    layers.move_to(CPU)
    assert torch.equal(borrow(plain, layers)(ids).logits, alone)
    assert torch.equal(borrow(plain, layers, siblings=True)(ids).logits, together)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen2"])
def test_each_storage_moves_once_and_what_shared_one_still_does(architecture: str) -> None:
    model = tiny(architecture, tie_word_embeddings=True)
    layers = lend(model)
    parameters = lent_parameters(model, layers)
    before, offsets = places(parameters), {name: tensor.storage_offset() for name, tensor in parameters.items()}
    old = [StorageWeakRef(tensor.untyped_storage()) for tensor in parameters.values()]
    assert len(set(before.values())) < len(before), "nothing is shared, so nothing would be seen"
    layers.move_to(CPU)
    after = places(parameters)
    pairs = set(zip(before.values(), after.values(), strict=True))
    assert len(pairs) == len(set(before.values())) == len(set(after.values()))
    assert offsets == {name: tensor.storage_offset() for name, tensor in parameters.items()}
    assert all(storage.expired() for storage in old), "an old copy is still held"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen2"])
def test_the_ops_compute_with_the_very_weights_of_the_model_that_moved(architecture: str) -> None:
    """So there is one copy there, too: a change of the model's is one of every op's, in both directions."""
    model = tiny(architecture)
    layers = lend(model)
    layers.move_to(CPU)
    for parameter in lent_parameters(model, layers).values():
        parameter.zero_()
    for op in layers.spec.ops:
        ids = op.kind is OpKind.EMBEDDING
        x_RD = torch.zeros(2, 1, dtype=torch.int64) if ids else torch.randn(2, op.width_in)
        assert not layers.apply(op, Direction.FORWARD, x_RD).any(), op
        if not ids:
            assert not layers.apply(op, Direction.BACKWARD, torch.randn(2, op.width_out)).any(), op


def test_what_clients_fetch_stays_where_it_is() -> None:
    layers = lend(tiny("qwen2"))

    def addresses() -> list[int]:
        return [np.frombuffer(layers.tensor_bytes(spec.name), np.uint8).ctypes.data for spec in lent]

    lent = [spec for spec in layers.spec.tensors if spec.nbytes]
    assert lent
    before, contents = addresses(), [bytes(layers.tensor_bytes(spec.name)) for spec in lent]
    layers.move_to(CPU)
    assert addresses() == before
    assert [bytes(layers.tensor_bytes(spec.name)) for spec in lent] == contents
