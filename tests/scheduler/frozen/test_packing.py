"""A packed copy gives the bits of the weight it was made from, for few rows, within the budget of its base."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.frozen.layers import _Linear
from symbiosis_scheduler.frozen.packing import FEW_ROWS, FewRows, Packing
from tests.scheduler.tiny_models import lend, tiny

WIDTH_IN, WIDTH_OUT = 96, 160
PLENTY = 1 << 30


def _weight(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(WIDTH_OUT, WIDTH_IN, generator=torch.Generator().manual_seed(0)).to(dtype)


def _row(width: int) -> Tensor:
    return torch.randn(1, width, generator=torch.Generator().manual_seed(width)).bfloat16()


def _can_pack() -> bool:
    weight = _weight()
    return Packing(PLENTY).pack(weight, None, lambda x: F.linear(x, weight)) is not None


needs_packing = pytest.mark.skipif(not _can_pack(), reason="this torch or processor packs no bfloat16 weights")


@needs_packing
@pytest.mark.parametrize("biased", [False, True])
def test_few_rows_of_bfloat16_get_the_same_bits(biased: bool) -> None:
    weight = _weight()
    bias = torch.linspace(-1, 1, WIDTH_OUT).bfloat16() if biased else None
    packed = Packing(PLENTY).pack(weight, bias, lambda x: F.linear(x, weight, bias))
    assert packed is not None
    for rows in range(1, FEW_ROWS + 1):
        x = torch.randn(rows, WIDTH_IN).bfloat16()
        assert torch.equal(packed(x), F.linear(x, weight, bias))


def test_a_product_with_other_bits_is_not_used() -> None:
    weight = _weight()
    packing = Packing(PLENTY)
    assert packing.pack(weight, None, lambda x: F.linear(x, weight) + 1) is None
    assert packing.packed_bytes == 0


@needs_packing
@pytest.mark.parametrize(("short_of_bytes", "packed"), [(0, True), (1, False)])
def test_a_base_is_packed_whole_or_not_at_all(short_of_bytes: int, packed: bool) -> None:
    layers = lend(tiny("llama", DType.BFLOAT16), DType.BFLOAT16)
    linears = [op for op in layers.spec.ops if op.kind is OpKind.LINEAR]
    joined = {name for op in linears if len(op.members) > 1 for name in op.members}
    asked_for = [op for op in linears if len(op.members) > 1 or op.members[0] not in joined]
    assert len(asked_for) < len(linears)  # siblings are ops by themselves, too, in the same memory
    needed = sum(op.width_in * op.width_out * 2 for op in asked_for)
    packing = Packing(needed - short_of_bytes)
    layers.pack_with(packing)
    for op in asked_for:
        layers.apply(op, Direction.FORWARD, torch.randn(1, op.width_in).bfloat16())
    assert packing.packed_bytes == (needed if packed else 0)


@needs_packing
def test_siblings_that_are_asked_for_alone_are_packed_again_out_of_what_is_left() -> None:
    layers = lend(tiny("llama", DType.BFLOAT16), DType.BFLOAT16)
    linears = [op for op in layers.spec.ops if op.kind is OpKind.LINEAR]
    expected = {op.id: layers.apply(op, Direction.FORWARD, _row(op.width_in)) for op in linears}

    def packed(budget: int, asked: list[OpSpec]) -> int:
        packing = Packing(budget)
        layers.pack_with(packing)
        for op in asked:
            assert torch.equal(layers.apply(op, Direction.FORWARD, _row(op.width_in)), expected[op.id])
        return packing.packed_bytes

    alone = [op for op in linears if len(op.members) == 1]
    joined = [op for op in linears if len(op.members) > 1]
    everything = packed(PLENTY, linears)
    whole = everything - packed(
        PLENTY, [op for op in alone if op.members[0] in {m for j in joined for m in j.members}]
    )
    assert packed(whole, alone + joined) == whole  # whoever comes first, what was set aside is there
    assert whole < packed(everything - 1, alone + joined) < everything


def test_the_next_base_has_what_the_ones_before_it_left() -> None:
    packing = Packing(100)
    assert packing.admits(60)
    assert not packing.admits(41)
    assert packing.admits(40)


def test_the_trial_leaves_torchs_random_numbers_alone() -> None:
    weight = _weight()
    before = torch.get_rng_state()
    Packing(PLENTY).pack(weight, None, lambda x: F.linear(x, weight))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_linear_is_packed_once_though_two_threads_find_that_it_is_not_yet() -> None:
    class Counting(Packing):
        asked = 0

        def pack(self, weight_OD: Tensor, bias_O: Tensor | None, plain: FewRows) -> FewRows | None:
            self.asked += 1
            linear._pack()  # another thread that has looked before this one began
            return None

    linear, packing = _Linear(torch.ones(2, 2), None), Counting(PLENTY)
    linear.pack_with(packing.pack)
    for _ in range(2):
        assert torch.equal(linear.forward(torch.ones(1, 2), None), torch.full((1, 2), 2.0))
    assert packing.asked == 1


@needs_packing
def test_a_linear_is_packed_at_its_first_few_rows_and_answers_as_before() -> None:
    layers = lend(tiny("llama", DType.BFLOAT16), DType.BFLOAT16)
    op = next(op for op in layers.spec.ops if op.kind is OpKind.LINEAR)
    few, many = (torch.randn(rows, op.width_in).bfloat16() for rows in (2, FEW_ROWS + 1))
    expected = layers.apply(op, Direction.FORWARD, few)
    packing = Packing(PLENTY)
    layers.pack_with(packing)
    layers.apply(op, Direction.FORWARD, many)
    assert packing.packed_bytes == 0
    out = torch.empty(2, op.width_out, dtype=torch.bfloat16)
    for _ in range(2):
        assert torch.equal(layers.apply(op, Direction.FORWARD, few, out), expected)
    assert torch.equal(out, expected)
    assert packing.packed_bytes == op.width_in * op.width_out * 2
