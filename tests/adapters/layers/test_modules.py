"""Remote layers are what PEFT asks for by isinstance, and own no base weight."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import embedding
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from symbiosis_adapters.layers.making import make_remote
from symbiosis_adapters.layers.modules import (
    RemoteConv1D,
    RemoteEmbedding,
    RemoteLayer,
    RemoteLinear,
    form,
)
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenTable
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.takes import Takes
from symbiosis_core.errors import RemoteProtocolError, UsageError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import DType, OpKind, OpSpec
from tests.adapters.local import LocalRows


class Scaled(nn.Embedding):
    """As in Gemma 3."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 3


class Product(nn.Linear):
    """As in Falcon."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ self.weight.T


class Reads(nn.Embedding):
    """Looks the table up by itself."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return embedding(input, self.weight)


class Plain(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.bare = nn.Linear(6, 4, bias=False)
        self.product = Product(6, 4, bias=False)
        self.conv = Conv1D(4, 6)
        self.table = nn.Embedding(11, 6, padding_idx=2)
        self.scaled = Scaled(11, 6)


@pytest.fixture
def plain() -> Any:
    torch.manual_seed(0)
    return Plain().requires_grad_(False)


class Values:
    """Lends the weights of a plain module. Implements `Lending`."""

    withheld = False

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.takes = Takes()

    def frozen(self, name: str) -> torch.Tensor:
        return self._module.get_parameter(name).detach()

    def private(self, name: str) -> torch.Tensor:
        return self.frozen(name).clone()


def bound(rows: LocalRows, path: str, layer: nn.Module) -> FrozenTable | FrozenLinear:
    """Returns what computes a layer."""
    kind, width_in, width_out = form(layer) or (OpKind.LINEAR, 0, 0)
    op = OpSpec(OpId(0), kind, (path,), width_in, (width_out,), DType.FLOAT32)
    return FrozenTable(rows, op) if kind is OpKind.EMBEDDING else FrozenLinear(rows, op)


@pytest.fixture
def remote(plain: Any) -> Any:
    rows, model, placeholders = LocalRows(plain), copy.deepcopy(plain).to("meta"), dict[int, FrozenWeight]()
    for path, layer in model.named_children():
        make_remote(layer, path, bound(rows, path, layer), torch.float32, placeholders)
    return model


def test_layers_are_the_kinds_that_peft_dispatches_on(remote: Any) -> None:
    assert (type(remote.linear), type(remote.conv), type(remote.table)) == (
        RemoteLinear,
        RemoteConv1D,
        RemoteEmbedding,
    )
    assert isinstance(remote.linear, nn.Linear)
    assert isinstance(remote.conv, Conv1D)
    assert isinstance(remote.table, nn.Embedding)
    assert (remote.linear.in_features, remote.linear.out_features) == (6, 4)
    assert (remote.conv.nx, remote.conv.nf, remote.conv.weight.shape) == (6, 4, (6, 4))
    assert (remote.table.num_embeddings, remote.table.padding_idx) == (11, 2)
    assert remote.bare.bias is None
    for parameter in remote.parameters():
        assert isinstance(parameter, FrozenWeight)
        assert (parameter.device.type, parameter.requires_grad) == ("cpu", False)
    assert "remote=table" in repr(remote.table)


def test_layers_compute_what_the_plain_ones_compute(remote: Any, plain: Any) -> None:
    x, ids = torch.randn(2, 3, 6), torch.tensor([[1, 2, 10]])
    for name in ("linear", "bare", "product", "conv"):
        torch.testing.assert_close(getattr(remote, name)(x), getattr(plain, name)(x))
    for name in ("table", "scaled"):
        torch.testing.assert_close(getattr(remote, name)(ids), getattr(plain, name)(ids))


def test_an_embedding_keeps_its_own_forward_on_top(remote: Any) -> None:
    assert isinstance(remote.scaled, Scaled)
    assert isinstance(remote.scaled, RemoteEmbedding)
    assert type(remote.scaled).__name__ == "RemoteScaled"
    assert type(copy.deepcopy(remote.scaled)) is type(remote.scaled)


def test_a_parametrized_layer_refuses_to_be_pickled_as_torchs_own_does(remote: Any) -> None:
    """It has a class of its own, which would be lost."""
    parametrize.register_parametrization(remote.linear, "weight", nn.Identity(), unsafe=True)
    with pytest.raises(RuntimeError, match="parametrized"):
        pickle.dumps(remote.linear)


def test_layers_that_need_no_connection_can_be_pickled(plain: Any) -> None:
    """Whatever their class, and though it is noted what was taken of them; the values go along."""
    rows, model, values = LocalRows(plain), copy.deepcopy(plain).to("meta"), Values(plain)
    for path, layer in model.named_children():
        make_remote(layer, path, bound(rows, path, layer), torch.float32, {}, values)
    again = pickle.loads(pickle.dumps(model))
    x, ids = torch.randn(2, 3, 6), torch.tensor([[1, 2, 10]])
    for name, layer in model.named_children():
        given = ids if isinstance(layer, nn.Embedding) else x
        torch.testing.assert_close(getattr(again, name)(given), getattr(plain, name)(given))
        assert type(getattr(again, name)) is type(layer)
        assert torch.equal(getattr(again, name).weight, getattr(plain, name).weight)


def test_a_forward_that_reads_the_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="Reads reads its table"):
        make_remote(Reads(4, 4), "table", lambda x: x, torch.float32, {})
    with pytest.raises(UsageError, match="max_norm"):
        make_remote(nn.Embedding(4, 4, max_norm=1), "table", lambda x: x, torch.float32, {})
    with pytest.raises(RemoteProtocolError, match="not a linear or embedding"):
        make_remote(nn.LayerNorm(4), "norm", lambda x: x, torch.float32, {})


def test_tied_weights_share_a_placeholder() -> None:
    table, head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
    head.weight = table.weight
    placeholders: dict[int, FrozenWeight] = {}
    for layer in (table, head):
        make_remote(layer, "tied", lambda x: x, torch.float32, placeholders)
    assert head.weight is table.weight


def test_its_own_state_dict_round_trips(remote: Any) -> None:
    assert set(remote.state_dict()) == set(Plain().state_dict())
    assert remote.load_state_dict(remote.state_dict()) == ([], [])


def test_the_same_real_weights_may_be_loaded_and_others_not(remote: Any, plain: Any) -> None:
    assert remote.load_state_dict(plain.state_dict()) == ([], [])
    assert remote.load_state_dict({}) == ([], [])
    for name in ("linear.weight", "linear.bias", "bare.weight", "conv.weight", "conv.bias", "scaled.weight"):
        changed = {**plain.state_dict(), name: torch.randn_like(plain.state_dict()[name])}
        with pytest.raises(RuntimeError, match=f"{name} differs from the daemon's"):
            remote.load_state_dict(changed)
        with pytest.raises(RuntimeError, match=f"{name} differs from the daemon's"):
            remote.load_state_dict({**plain.state_dict(), name: torch.zeros(12, 6)})
    assert all(isinstance(parameter, FrozenWeight) for parameter in remote.parameters())


def test_where_nothing_is_lent_a_tuner_layer_has_no_base_in_its_state_dict(remote: Any) -> None:
    tuner = nn.Module()
    tuner.add_module("base_layer", remote.linear)
    tuner.add_module("lora_A", nn.Linear(6, 2, bias=False))
    assert list(tuner.state_dict()) == ["lora_A.weight"]


def test_a_copied_layer_works_and_is_as_small(remote: Any, plain: Any) -> None:
    copied = copy.deepcopy(remote)
    x = torch.randn(2, 6)
    torch.testing.assert_close(copied.linear(x), plain.linear(x))
    assert isinstance(copied.linear, RemoteLayer)
    assert isinstance(copied.linear.weight, FrozenWeight)
