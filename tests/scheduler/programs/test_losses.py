"""The loss of every row is computed a few rows at a time, with the bits of all at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from symbiosis_core.ids import OpId
from symbiosis_core.segments import Fn, Node, Segment, SegmentSpec, check
from symbiosis_core.specs import DType, Plane
from symbiosis_scheduler.programs import losses as losses_module
from symbiosis_scheduler.programs.losses import Loss, cross_entropy, cross_entropy_pull, losses_in

V, ROWS, IGNORED = 50, 11, -100
LOSS = Loss((0, 1), torch.float32, IGNORED, frozenset())


@pytest.fixture(params=[1, 3, 1000], ids="{} rows at once".format)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_module, "_PIECE_BYTES", request.param * V * 4)


def logits_and_classes() -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    classes = torch.randint(0, V, (ROWS, 1), generator=chance)
    classes[4] = IGNORED
    return torch.randn(ROWS, V, generator=chance).mul(3).bfloat16(), classes


@pytest.mark.usefixtures("pieces")
def test_pieces_have_the_bits_of_the_whole() -> None:
    logits, classes = logits_and_classes()
    whole = F.cross_entropy(logits.float(), classes[:, 0], ignore_index=IGNORED, reduction="none")
    assert torch.equal(cross_entropy(LOSS)(logits, classes), whole[:, None])


@pytest.mark.usefixtures("pieces")
def test_the_gradient_is_that_of_autograd() -> None:
    logits, classes = logits_and_classes()
    dy = torch.rand(ROWS, 1)
    mine = cross_entropy_pull(LOSS)(dy, [logits, classes], None, 0)
    assert mine.dtype is torch.bfloat16
    wide = logits.double().requires_grad_()
    loss = F.cross_entropy(wide, classes[:, 0], ignore_index=IGNORED, reduction="none")
    (exact,) = torch.autograd.grad(loss, wide, dy[:, 0].double())
    torch.testing.assert_close(mine.double(), exact, rtol=2**-8, atol=1e-7)
    assert not mine[4].any()


def spec_of(nodes: list[Node], *outputs: int) -> SegmentSpec:
    planes = (Plane(V, DType.BFLOAT16), Plane(1, DType.INT64))
    segment = Segment(planes, (), tuple(nodes), outputs)
    return SegmentSpec(OpId(0), segment, check(segment, (), {}), "test")


CAST = Node(Fn.CAST, (0,), dtype=DType.FLOAT32)
ENTROPY = Node(Fn.CROSS_ENTROPY, (2, 1), start=IGNORED)


def test_a_cast_that_only_the_loss_reads_is_taken_in() -> None:
    assert losses_in(spec_of([CAST, ENTROPY], 3)) == {3: Loss((0, 1), torch.float32, IGNORED, frozenset({2}))}


def test_a_cast_that_is_read_elsewhere_stays() -> None:
    assert losses_in(spec_of([CAST, ENTROPY], 2, 3)) == {3: Loss((2, 1), torch.float32, IGNORED, frozenset())}
