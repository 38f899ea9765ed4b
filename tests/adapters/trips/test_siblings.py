"""Siblings share a trip exactly when they read the same tensor in the same state; nothing is kept for longer."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from symbiosis_adapters.trips.remote import FrozenLinear, FrozenSiblings
from symbiosis_adapters.trips.siblings import MAX_WASTED, SiblingGroup
from symbiosis_core.ids import OpId
from symbiosis_core.specs import DType, OpKind, OpSpec
from tests.adapters.local import LocalRows

D = 6
WIDTHS = {"q": 4, "k": 2, "v": 2}


class Attention(nn.Module):
    """Three linears on one input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, width) for width in WIDTHS.values())


class Block:
    """The attention, plain and as a group."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.plain = Attention().requires_grad_(False)
        model = nn.ModuleDict({"attn": self.plain})
        self.rows = LocalRows(model)
        singles = tuple(FrozenLinear(self.rows, self._spec(name)) for name in WIDTHS)
        self.group = SiblingGroup(FrozenSiblings(self.rows, self._spec(*WIDTHS), singles))
        self.q, self.k, self.v = (self.group.member(index) for index in range(3))

    def _spec(self, *names: str) -> OpSpec:
        members = tuple(f"attn.{name}" for name in names)
        return OpSpec(OpId(0), OpKind.LINEAR, members, D, tuple(WIDTHS[name] for name in names), DType.FLOAT32)

    def check(self, x: torch.Tensor, *names: str) -> None:
        for name in names or WIDTHS:
            torch.testing.assert_close(getattr(self, name)(x), getattr(self.plain, name)(x))

    @property
    def trips(self) -> list[str]:
        return [name.removeprefix("attn.") for name in self.rows.forward]


FUSED = "{q,k,v}"


@pytest.fixture
def block() -> Block:
    return Block()


def test_members_in_any_order_share_one_trip_each_way(block: Block) -> None:
    for order in ("qkv", "vkq", "kqv"):
        leaf = torch.randn(3, D, requires_grad=True)
        x = leaf.sin()
        outputs = {name: getattr(block, name)(x) for name in order}
        loss = sum((outputs[name] * (1 + index)).square().sum() for index, name in enumerate(WIDTHS))
        expected = sum((getattr(block.plain, name)(x) * (1 + i)).square().sum() for i, name in enumerate(WIDTHS))
        assert isinstance(loss, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    assert block.trips == [FUSED] * 3
    assert len(block.rows.backward) == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_mode_shares(block: Block, mode: type[torch.no_grad]) -> None:
    with mode():
        for _ in range(3):
            block.check(torch.randn(2, 3, D))
    assert block.trips == [FUSED] * 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_tensor_modified_in_between_is_computed_anew(block: Block, mode: type[torch.no_grad]) -> None:
    with mode():
        x = torch.randn(2, D)
        block.check(x, "q")
        x.add_(1)
        block.check(x, "k", "v")
    assert block.trips == [FUSED, "k", "v"]


def test_another_tensor_of_equal_values_is_not_the_same_tensor(block: Block) -> None:
    x = torch.randn(2, D)
    block.check(x, "q")
    block.check(x.clone(), "k")
    block.check(x, "v")
    assert block.trips == [FUSED, "k"]


def test_a_member_called_twice_takes_its_own_op(block: Block) -> None:
    x = torch.randn(2, D)
    block.check(x, "q", "q", "k", "k", "v")
    assert block.trips == [FUSED, "q", "k"]


def test_a_change_of_mode_in_between_is_respected(block: Block) -> None:
    x = torch.randn(2, D, requires_grad=True).sin()
    with torch.no_grad():
        assert block.q(x).grad_fn is None
    assert block.k(x).grad_fn is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block.v(x).dtype == torch.bfloat16
    y = torch.randn(2, D)
    with torch.inference_mode():
        block.q(y)
    assert not block.k(y).is_inference()


def test_kept_outputs_die_with_the_tensor(block: Block) -> None:
    leaf = torch.randn(2, D, requires_grad=True)
    x = leaf.sin()
    block.q(x)
    kept = block.group._kept
    assert kept is not None
    graph = weakref.ref(kept.outputs[1])
    del x
    assert kept.outputs == []
    assert graph() is None


def test_consumed_outputs_are_not_kept(block: Block) -> None:
    x = torch.randn(2, D)
    q, k, v = block.q(x), block.k(x), block.v(x)
    assert block.group._kept is None
    refs = [weakref.ref(y) for y in (q, k, v)]
    del q, k, v
    assert [ref() for ref in refs] == [None] * 3


def test_a_leaf_that_needs_a_gradient_is_not_shared(block: Block) -> None:
    x = torch.randn(2, D, requires_grad=True)
    block.check(x)
    assert block.trips == ["q", "k", "v"]
    assert block.group._kept is None


def test_a_dropped_graph_leaves_nothing_behind(block: Block) -> None:
    leaf = torch.randn(2, D, requires_grad=True)
    x = leaf.sin()
    sentinel = weakref.ref(x)
    y = block.q(x).sum() + block.k(x).sum()
    del x, y
    gc.collect()
    assert sentinel() is None


def test_an_odd_member_demotes_the_group_and_says_so(block: Block) -> None:
    for _ in range(MAX_WASTED + 3):
        x = torch.randn(2, D)
        block.check(x, "q")
        block.check(x * 2, "k")
        block.check(x, "v")
    shared = [FUSED, "k"] * MAX_WASTED
    assert block.trips == shared + ["q", "k", "v"] * 3
    assert block.group.reason is not None
    assert block.group.reason.startswith(f"attn.{FUSED}: k did not read the same tensor")


def test_waste_now_and_then_does_not_demote(block: Block) -> None:
    for index in range(4 * MAX_WASTED):
        block.check(torch.randn(2, D), *("q" if index % 2 else "qkv"))
    assert block.group.reason is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_shares_in_both_passes(block: Block, reentrant: bool) -> None:
    def attend(x: torch.Tensor) -> torch.Tensor:
        x = x.sin()
        joined = torch.cat([block.q(x), block.k(x), block.v(x)], dim=-1)
        return joined.exp()

    for _ in range(2 * MAX_WASTED):
        leaf = torch.randn(2, D, requires_grad=True)
        checkpoint(attend, leaf, use_reentrant=reentrant).sum().backward()
        (expected,) = torch.autograd.grad(
            sum(getattr(block.plain, name)(leaf.sin()).exp().sum() for name in WIDTHS), leaf
        )
        torch.testing.assert_close(leaf.grad, expected)
    assert block.trips == [FUSED] * 4 * MAX_WASTED
    assert block.group.reason is None


def test_a_copied_group_keeps_nothing_of_the_other(block: Block) -> None:
    x = torch.randn(2, D)
    block.q(x)
    q, k = copy.deepcopy((block.q, block.k))
    assert q.group is k.group is not block.group
    torch.testing.assert_close(k(x), block.plain.k(x))
    assert block.trips == [FUSED, FUSED]
