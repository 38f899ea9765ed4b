"""A chain is taken for an RMS norm only where nothing in between is read by anybody else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from symbiosis_core.ids import OpId
from symbiosis_core.segments import Fn, Node, Segment, SegmentSpec, check
from symbiosis_core.specs import DType, Plane
from symbiosis_scheduler.programs.norms import Norm, norms_in, rms_norm, rms_norm_pull

D = 16
CORE = [
    Node(Fn.POW, (0,), number=2),
    Node(Fn.MEAN, (1,)),
    Node(Fn.ADD, (2,), number=1e-6),
    Node(Fn.RSQRT, (3,)),
    Node(Fn.MUL, (0, 4)),
]
CAST_CORE = [
    Node(Fn.CAST, (0,), dtype=DType.FLOAT32),
    Node(Fn.POW, (1,), number=2),
    Node(Fn.MEAN, (2,)),
    Node(Fn.ADD, (3,), number=1e-6),
    Node(Fn.RSQRT, (4,)),
    Node(Fn.MUL, (5, 1)),
    Node(Fn.CAST, (6,), dtype=DType.BFLOAT16),
]


def spec_of(nodes: list[Node], *outputs: int, dtype: DType = DType.FLOAT32) -> SegmentSpec:
    segment = Segment((Plane(D, dtype),), (), tuple(nodes), outputs)
    return SegmentSpec(OpId(0), segment, check(segment, (), {}), "test")


def test_a_norm_in_float32_is_found() -> None:
    assert norms_in(spec_of(CORE, 5)) == {5: Norm(0, 1e-6, frozenset((1, 2, 3, 4)))}


def test_the_casts_around_a_norm_in_bfloat16_are_taken_in() -> None:
    found = norms_in(spec_of(CAST_CORE, 7, dtype=DType.BFLOAT16))
    assert found == {7: Norm(0, 1e-6, frozenset((1, 2, 3, 4, 5, 6)))}


@pytest.mark.parametrize("read", [1, 6])
def test_a_cast_that_is_read_elsewhere_stays(read: int) -> None:
    found = norms_in(spec_of(CAST_CORE, 7, read, dtype=DType.BFLOAT16))
    assert found == {6: Norm(1, 1e-6, frozenset((2, 3, 4, 5)))}


@pytest.mark.parametrize("read", [1, 2, 3, 4])
def test_a_chain_that_is_read_in_between_is_no_norm(read: int) -> None:
    assert not norms_in(spec_of(CORE, 5, read))


@pytest.mark.parametrize(
    ("at", "node"),
    [
        (0, Node(Fn.POW, (0,), number=3)),
        (2, Node(Fn.ADD, (2, 2))),
        (3, Node(Fn.SIGMOID, (3,))),
        (4, Node(Fn.MUL, (4,), number=2)),
    ],
)
def test_another_chain_is_no_norm(at: int, node: Node) -> None:
    assert not norms_in(spec_of([*CORE[:at], node, *CORE[at + 1 :]], 5))


def test_a_chain_in_bfloat16_without_casts_is_none_of_torchs() -> None:
    """Torch's own computes in float32, so it has other bits."""
    assert not norms_in(spec_of(CORE, 5, dtype=DType.BFLOAT16))


def test_a_factor_of_another_value_is_no_norm() -> None:
    nodes = [Node(Fn.NEG, (0,)), Node(Fn.POW, (0,), number=2)]
    nodes += [Node(Fn.MEAN, (2,)), Node(Fn.ADD, (3,), number=1e-6), Node(Fn.RSQRT, (4,)), Node(Fn.MUL, (1, 5))]
    assert not norms_in(spec_of(nodes, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 130])
@pytest.mark.parametrize("width", [8, 50, 576])
def test_torchs_own_norm_has_the_bits_of_the_chain(dtype: torch.dtype, rows: int, width: int) -> None:
    x = (torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)) * 3).to(dtype)
    h = x.to(torch.float32)
    chain = (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)).to(dtype)
    assert torch.equal(F.rms_norm(x, (width,), None, 1e-5), chain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_of_a_norm_is_that_of_autograd(dtype: torch.dtype) -> None:
    """In bfloat16 autograd itself rounds in between, so both are held against float64."""
    chance = torch.Generator().manual_seed(0)
    x, dy = [torch.randn(5, 50, generator=chance).to(dtype) for _ in range(2)]
    exact_x = x.double().requires_grad_()
    (exact,) = torch.autograd.grad(rms_norm(1e-5)(exact_x), exact_x, dy.double())
    found = rms_norm_pull(1e-5)(dy, [x], None, 0)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


def test_a_gradient_that_was_given_to_a_norm_is_not_written_to() -> None:
    x, dy = torch.randn(3, 8), torch.randn(3, 8)
    kept = x.clone(), dy.clone()
    rms_norm_pull(1e-5)(dy, [x], None, 0)
    assert torch.equal(x, kept[0])
    assert torch.equal(dy, kept[1])
