"""Products with a weight that is not lent, or with a part of one, are the daemon's, gradients included."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights import factors
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from tests.adapters.local import VOCABULARY, Pair

trl_kernel = pytest.importorskip("trl.kernels.chunked_logprob")

WIDTH = 32
_PHI = {"hidden_size": WIDTH, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1}
SHAPES: dict[str, Any] = {"llama": None, "qwen2": None, "gpt2": None, "phi": _PHI}
"""A tied head, one of its own, a tied one beside Conv1D, and one with a bias."""


def heads(pair: Pair, cut: Cut = Cut.GRAPH) -> tuple[Any, Any]:
    return pair.plain().lm_head, pair.remote(cut).lm_head


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    scale = expected.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


class Scored(NamedTuple):
    """What TRL's kernel makes of hidden rows and a head."""

    log_probs: Tensor
    entropy: Tensor
    gradient: Tensor


def scored(head: Any, dtype: torch.dtype = torch.float32) -> Scored:
    """In tiles of 40 classes, the last of which is narrower."""
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, WIDTH, generator=draw).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (7,), generator=draw)
    outputs = ("log_probs", "entropy", "is_top1")
    log_probs, entropy, *_ = trl_kernel.ChunkedLogProbFunction.apply(
        hidden, head.weight, head.bias, targets, 0.7, 40, None, 1.0, outputs
    )
    (2 * log_probs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    return Scored(log_probs.detach(), entropy.detach(), hidden.grad)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("allow", ["nobody", "same_user"])
@pytest.mark.parametrize("architecture", SHAPES)
def test_trls_kernel_gives_what_it_gives_over_a_plain_head(architecture: str, allow: Any, cut: Cut) -> None:
    plain, ours = heads(Pair(architecture, allow=allow, shape=SHAPES[architecture]), cut)
    for found, expected in zip(scored(ours), scored(plain), strict=True):
        close(found, expected)
    assert isinstance(ours.weight, FrozenWeight), "somebody has taken the head"


def test_on_a_lent_base_the_kernel_reads_the_weights_and_takes_none() -> None:
    pair = Pair("llama")
    plain, model = pair.plain(), pair.remote()
    assert all(torch.equal(*each) for each in zip(scored(model.lm_head), scored(plain.lm_head), strict=True))
    assert pair.rows.trips == []
    assert explain(model).taken == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_base_in_bfloat16_serves_a_kernel_that_sums_in_float32(dtype: torch.dtype) -> None:
    """Within the rounding of the daemon's products, which are of the base's element type."""
    plain, ours = heads(Pair("llama", dtype=DType.BFLOAT16, allow="nobody"))
    for found, expected in zip(scored(ours, dtype), scored(plain, dtype), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_autocast_casts_what_the_daemon_answers() -> None:
    plain, ours = heads(Pair("llama", allow="nobody"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = scored(ours), scored(plain)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.02 * theirs.abs().max().item())


FORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "linear": lambda head, x: F.linear(x, head.weight, head.bias),
    "part of a linear": lambda head, x: F.linear(x, head.weight[8:24], head.bias[8:24]),
    "matmul": lambda head, x: x @ head.weight[8:24].T,
    "one class": lambda head, x: x @ head.weight[5:6].t(),
    "of a detached part": lambda head, x: torch.matmul(x, head.weight.detach()[8:][4:9].mT),
    "split": lambda head, x: torch.cat([x @ part.T for part in head.weight.split(40)], -1),
    "back": lambda head, x: (x @ head.weight.T) @ head.weight,
    "part of the way back": lambda head, x: (x @ head.weight.T)[..., 8:24] @ head.weight[8:24],
    "sum": lambda head, x: torch.addmm(x[0, :, :5], x[0], head.weight[:5].T, beta=0.5, alpha=2.0),
    "sum with unwritten memory": lambda head, x: torch.addmm(
        torch.full((5,), torch.nan), x[0], head.weight[:5].T, beta=0, alpha=2.0
    ),
    "sum into unwritten memory": lambda head, x: torch.full((3, 5), torch.nan).addmm_(
        x[0], head.weight[:5].T, beta=0, alpha=2.0
    ),
    "rows without a batch": lambda head, x: x[0, 0] @ head.weight[:5].T,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_product_and_its_gradient_are_those_of_the_weight(form: Callable[[Any, Tensor], Tensor]) -> None:
    found = []
    for head in heads(Pair("phi", allow="nobody", shape=_PHI)):
        x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()
        y = form(head, x)
        y.pow(2).sum().backward()
        assert x.grad is not None
        found.append((y.detach(), x.grad))
    for expected, mine in zip(*found, strict=True):
        close(mine, expected)


def test_a_weight_that_is_kept_the_other_way_round_multiplies_too() -> None:
    pair = Pair("gpt2", allow="nobody")
    plain, ours = (model.transformer.h[0].mlp.c_fc.weight for model in (pair.plain(), pair.remote()))
    x, y = torch.randn(5, WIDTH), torch.randn(5, plain.shape[1])
    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda w: x @ w,
        lambda w: x @ w[:, 3:9],
        lambda w: y @ w.T,
        lambda w: y[:, 3:9] @ w[:, 3:9].T,
    ]
    for form in forms:
        close(form(ours), form(plain))


def test_only_the_columns_that_are_asked_for_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("llama", allow="nobody")
    head = pair.remote().lm_head
    widths: list[list[int]] = []
    call = pair.rows.call

    def noted(*args: Any) -> list[Tensor]:
        answers = call(*args)
        widths.append([plane.shape[1] for plane in answers])
        return answers

    monkeypatch.setattr(pair.rows, "call", noted)
    x = torch.randn(2, WIDTH, requires_grad=True)
    (x @ head.weight[8:24].T).sum().backward()
    assert widths == [[16], [WIDTH]]


def test_bounds_that_vary_without_end_fill_neither_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many the whole op is asked, and what is computed stays the same."""
    monkeypatch.setattr(factors, "_MOST_COLUMNS", 20)
    pair = Pair("phi", allow="nobody", shape=_PHI)
    weights = [head.weight for head in heads(pair)]
    draw = torch.Generator().manual_seed(3)
    for start in range(VOCABULARY - 1):
        stop, found = start + 1 + start % (VOCABULARY - start), []
        wide = torch.randn(2, 3, WIDTH, generator=draw)
        for weight in weights:
            x = wide.clone().requires_grad_()
            y = x @ weight[start:stop].T
            back = y.detach() @ weight[start:stop]
            y.pow(2).sum().backward()
            assert x.grad is not None
            found.append((y.detach(), back, x.grad))
        for expected, mine in zip(*found, strict=True):
            close(mine, expected)
    assert len(pair.rows.programs) == 19


def test_a_deferred_tensor_may_be_multiplied() -> None:
    pair = Pair("llama", allow="nobody")
    ids = torch.tensor([[3, 4, 5]])
    found = []
    for model in (pair.plain(), pair.remote()):
        hidden = model.model(input_ids=ids).last_hidden_state
        found.append(hidden @ model.lm_head.weight[:9].T)
    close(found[1].detach(), found[0].detach())


def test_a_copy_multiplies_as_the_original_does() -> None:
    model = Pair("llama", allow="nobody").remote()
    x = torch.randn(2, WIDTH)
    close(x @ copy.deepcopy(model).lm_head.weight[:9].T, x @ model.lm_head.weight[:9].T)


OTHERS: dict[str, Callable[[Any], Any]] = {
    "from the left": lambda w: w[:3] @ torch.ones(WIDTH, 2),
    "part of the width": lambda w: torch.ones(2, 8) @ w[:, :8].T,
    "every other row": lambda w: torch.ones(2, WIDTH) @ w[::2].T,
    "a product in another type": lambda w: torch.mm(torch.ones(2, WIDTH), w[:3].T, out_dtype=torch.float32),
    "values": lambda w: w[:3].sum(),
    "values of another type": lambda w: w[:3].double().sum(),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_is_no_product_of_rows_is_refused_as_ever(other: Callable[[Any], Any]) -> None:
    weight = Pair("llama", allow="nobody").remote().lm_head.weight
    with pytest.raises(UsageError, match=r"reading its values .* is not possible"):
        other(weight)


def test_types_and_widths_must_fit_as_in_torch() -> None:
    weight = Pair("llama", allow="nobody").remote().lm_head.weight
    with pytest.raises(RuntimeError, match="same dtype"):
        torch.ones(2, WIDTH, dtype=torch.float64) @ weight[:4].T
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.ones(2, WIDTH + 1) @ weight[:4].T


def test_a_bias_is_asked_of_the_op_and_the_loan_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody lends is asked for over a connection."""
    pair, asked = Pair("phi", DType.BFLOAT16, allow="nobody", shape=_PHI), []
    borrow = pair.borrow

    def noted() -> Any:
        asked.append(1)
        return borrow()

    monkeypatch.setattr(pair, "borrow", noted)
    plain, head = pair.plain().lm_head, pair.remote().lm_head
    for _ in range(3):
        close(head.bias * 1, plain.bias)
    assert asked == [1]


@pytest.mark.filterwarnings("ignore:The base stays in torch.bfloat16 in the daemon")
def test_a_bias_has_the_type_that_it_was_cast_to() -> None:
    pair = Pair("phi", DType.BFLOAT16, allow="nobody", shape=_PHI)
    bias = pair.remote().float().lm_head.bias
    close(bias * 1, pair.plain().lm_head.bias.float())
    close(bias[2:] + torch.ones(()), pair.plain().lm_head.bias.float()[2:] + 1)
    assert bias.to("meta").add(1).is_meta
