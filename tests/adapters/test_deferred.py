"""A deferred tensor is a tensor: it answers about itself without a trip, and has its value for everything else."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from symbiosis_adapters.cut import Cut
from symbiosis_adapters.deferred import Deferred, pending, value_of
from symbiosis_adapters.functions import give_functions_values
from symbiosis_core.errors import UsageError
from tests.adapters.local import Pair

D = 32
LEAD = (2, 3)


class Layer:
    """One frozen linear, remote and plain."""

    def __init__(self) -> None:
        self.pair = Pair("llama")
        self.remote: Any = self.pair.remote(Cut.GRAPH).model.layers[0].self_attn.o_proj
        self.plain: Any = self.pair.plain().model.layers[0].self_attn.o_proj.requires_grad_(False)

    def both(self, *lead: int, grad: bool = False) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Returns a deferred tensor and what it stands for, then the inputs of both."""
        torch.manual_seed(1)
        mine = torch.randn(*(lead or LEAD), D)
        theirs = mine.clone()
        x, y = (each.requires_grad_(grad) for each in (mine, theirs))
        return self.remote(x * 1), self.plain(y * 1), x, y

    @property
    def trips(self) -> int:
        return len(self.pair.rows.forward)


@pytest.fixture
def layer() -> Layer:
    return Layer()


QUESTIONS: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda x: x.shape,
    "size": lambda x: (x.size(), x.size(1), x.size(-1)),
    "ndim": lambda x: (x.ndim, x.dim()),
    "dtype": lambda x: x.dtype,
    "device": lambda x: (x.device, x.get_device()),
    "where": lambda x: (x.is_cpu, x.is_cuda, x.is_meta, x.is_sparse, x.is_quantized, x.layout),
    "kind": lambda x: (x.is_floating_point(), torch.is_floating_point(x), x.is_complex(), torch.is_complex(x)),
    "counts": lambda x: (x.numel(), x.element_size()),
    "requires_grad": lambda x: x.requires_grad,
    "type": lambda x: (isinstance(x, Tensor), torch.is_tensor(x)),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("grad", [False, True])
def test_questions_need_no_trip_and_are_answered_as_for_the_value(layer: Layer, name: str, grad: bool) -> None:
    deferred, plain, _, _ = layer.both(grad=grad)
    ask = QUESTIONS[name]
    assert ask(deferred) == ask(plain)
    assert pending(deferred)
    assert layer.trips == 0
    value_of(deferred)
    assert ask(deferred) == ask(plain)


class Two(NamedTuple):
    """A tuple of a kind of its own."""

    a: Tensor
    b: Tensor


VALUES: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda x: x.softmax(-1),
    "cat": lambda x: torch.cat([x, x], 1),
    "nested": lambda x: torch.stack((x, x)),
    "named tuple": lambda x: torch.cat(Two(x, x)),
    "keyword": lambda x: torch.add(input=x, other=x, alpha=2),
    "matmul": lambda x: x @ torch.ones(D, 2),
    "matmul from the right": lambda x: torch.ones(4, 3) @ x,
    "linear": lambda x: F.linear(x, torch.ones(2, D)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "transpose": lambda x: x.transpose(0, 1),
    "select": lambda x: x[:, -1],
    "mask": lambda x: x[torch.tensor([True, False])],
    "array": lambda x: x[np.array([0, 1]), :],
    "columns": lambda x: x[..., :4],
    "new axis": lambda x: x[None],
    "split view": lambda x: x.view(*LEAD, 4, 8),
    "detach": lambda x: x.detach(),
    "clone": lambda x: x.clone(),
    "item": lambda x: torch.tensor(x[0, 0, 0].item()),
    "tolist": lambda x: torch.tensor(x.tolist()),
    "iteration": lambda x: next(iter(x)),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "asarray": lambda x: torch.from_numpy(np.asarray(x.detach())),
    "dlpack": lambda x: torch.utils.dlpack.from_dlpack(x.detach()),
    "where": lambda x: torch.where(x > 0, x, 0),
    "copy": lambda x: torch.zeros(*LEAD, D).copy_(x),
    "compare": lambda x: x == x,
    "in place on another": lambda x: torch.ones(*LEAD, D).add_(x),
    "out": lambda x: torch.add(x, x, out=torch.empty(*LEAD, D)),
    "data": lambda x: x.data,
    "double": lambda x: x.double(),
    "sum": lambda x: sum(x.unbind()),
}


@pytest.mark.parametrize("name", VALUES)
def test_any_other_function_sees_the_value(layer: Layer, name: str) -> None:
    deferred, plain, _, _ = layer.both()
    found = VALUES[name](deferred)
    assert type(found) is Tensor
    torch.testing.assert_close(found, VALUES[name](plain))
    assert layer.trips == 1


def test_an_item_may_be_set_to_a_deferred_tensor(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    whole = torch.zeros(2, *LEAD, D)
    whole[1] = deferred
    torch.testing.assert_close(whole[1], plain)


def test_it_prints_copies_and_pickles_as_its_value(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both(1)
    assert repr(deferred) == repr(plain)
    for copied in (copy.deepcopy(deferred), copy.copy(deferred), pickle.loads(pickle.dumps(deferred))):
        assert type(copied) is Tensor
        assert torch.equal(copied, plain)
    file = io.BytesIO()
    torch.save({"x": layer.both(1)[0]}, file)
    file.seek(0)
    assert torch.equal(torch.load(file)["x"], plain)


def test_it_is_computed_once_and_then_is_one_tensor(layer: Layer) -> None:
    deferred, _, _, _ = layer.both()
    first = value_of(deferred)
    deferred.exp()
    assert value_of(deferred) is first
    assert not pending(deferred)
    assert layer.trips == 1


@pytest.mark.parametrize(
    "modify",
    [
        lambda x: x.add_(1),
        lambda x: x.__iadd__(1),
        lambda x: F.relu(x, inplace=True),
        lambda x: x.__setitem__((0, 0), 7.0),
        lambda x: x.unsqueeze_(0),
        lambda x: torch.add(torch.ones(*LEAD, D), 1, out=x),
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_in_place_functions_change_what_it_stands_for(layer: Layer, modify: Any, mode: Any) -> None:
    with mode():
        deferred, plain, _, _ = layer.both()
        also = deferred.view(6, D)
        modify(deferred)
        modify(plain)
        assert deferred.shape == plain.shape
        torch.testing.assert_close(deferred.clone(), plain)
        torch.testing.assert_close(also.clone(), plain.reshape(also.shape))


def test_a_gradient_reaches_the_input_and_the_tensor_itself(layer: Layer) -> None:
    deferred, plain, x, y = layer.both(grad=True)
    for each in (deferred, plain):
        each.retain_grad()
        each.register_hook(lambda grad: grad * 2)
        each.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(deferred.grad, plain.grad)
    assert deferred.grad_fn is not None
    assert not deferred.is_leaf


def test_a_gradient_is_taken_of_it_and_with_respect_to_it(layer: Layer) -> None:
    ones = torch.ones(*LEAD, D)
    deferred, plain, x, y = layer.both(grad=True)
    torch.testing.assert_close(torch.autograd.grad(deferred, x, ones), torch.autograd.grad(plain, y, ones))
    deferred, plain, x, y = layer.both(grad=True)
    torch.autograd.backward([deferred], [ones])
    plain.backward(ones)
    torch.testing.assert_close(x.grad, y.grad)
    deferred, _, _, _ = layer.both(grad=True)
    value_of(deferred)
    (found,) = torch.autograd.grad((deferred * 3).sum(), deferred)
    assert torch.equal(found, ones * 3)


ASK: dict[str, Callable[[Any, Any], Any]] = {
    "retain_grad": lambda h, loss: h.retain_grad(),
    "register_hook": lambda h, loss: h.register_hook(torch.neg),
    "grad": lambda h, loss: torch.autograd.grad(loss, h),
    "grads": lambda h, loss: torch.autograd.grad(loss, [h]),
    "backward": lambda h, loss: loss.backward(inputs=[h]),
}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("name", ASK)
def test_a_gradient_that_would_be_a_part_of_it_is_an_error(layer: Layer, name: str, view: bool) -> None:
    """h is used once by a frozen layer, in the trip that computes h, and once by the client."""
    h, _, _, _ = layer.both(grad=True)
    kept = h.view(-1, D) if view else h
    loss = layer.remote(h).square().sum() + h.exp().sum()
    with pytest.raises(UsageError, match="after frozen layers had used the tensor"):
        ASK[name](kept, loss)


@pytest.mark.parametrize("name", ASK)
def test_a_gradient_that_was_asked_for_in_time_is_the_whole(layer: Layer, name: str) -> None:
    def run(linear: Any, h: Any) -> list[Any]:
        if name in ("grad", "grads", "backward"):
            h.sum()  # the value
            if name == "backward":
                h.retain_grad()
        else:
            ASK[name](h, None)
        loss = linear(h).square().sum() + h.exp().sum()
        if name in ("grad", "grads"):
            return list(ASK[name](h, loss))
        loss.backward(**({"inputs": [h]} if name == "backward" else {}))
        return [] if name == "register_hook" else [h.grad]

    deferred, plain, x, y = layer.both(grad=True)
    found, expected = run(layer.remote, deferred), run(layer.plain, plain)
    for mine, theirs in zip([*found, x.grad], [*expected, y.grad], strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


class Doubled(torch.autograd.Function):
    """An own function, whose C++ half looks past torch's functions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


def test_an_own_function_is_given_values(layer: Layer) -> None:
    give_functions_values()
    give_functions_values()
    deferred, plain, x, y = layer.both(grad=True)
    Doubled.apply(deferred).sum().backward()  # type: ignore[no-untyped-call]
    (plain * 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_gradient_to_the_stand_in_is_an_error_and_a_clones_is_not(layer: Layer) -> None:
    deferred, plain, x, y = layer.both(grad=True)
    past_the_wrapper: Any = super(torch.autograd.Function, Doubled)
    wrong = past_the_wrapper.apply(deferred)
    torch.testing.assert_close(value_of(wrong), plain * 2)
    with pytest.raises(UsageError, match="a gradient reached the stand-in"):
        wrong.sum().backward()
    assert x.grad is None
    deferred, _, x, _ = layer.both(grad=True)
    Doubled.apply(deferred.clone()).sum().backward()  # type: ignore[no-untyped-call]
    (plain * 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("looked_at", [False, True])
def test_an_own_function_that_returns_a_deferred_tensor_is_an_error(layer: Layer, looked_at: bool) -> None:
    def forward(x: Tensor) -> Tensor:
        y: Tensor = layer.remote(x)
        if looked_at:
            y.sum()
        return y

    x = torch.ones(*LEAD, D, requires_grad=True)
    returned = checkpoint(forward, x, use_reentrant=True)
    with pytest.raises(UsageError, match=r"an autograd.Function .* returned a deferred tensor"):
        returned.sum()
    checkpoint(lambda x: forward(x).clone(), x, use_reentrant=True).sum().backward()
    y = torch.ones(*LEAD, D, requires_grad=True)
    layer.plain(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_an_input_modified_before_the_trip_is_an_error(layer: Layer) -> None:
    x = torch.ones(*LEAD, D)
    deferred = layer.remote(x)
    x.add_(1)
    with pytest.raises(UsageError, match="modified in place"):
        deferred.sum()
    assert layer.trips == 0


def test_in_inference_mode_the_value_at_the_call_counts(layer: Layer) -> None:
    with torch.inference_mode():
        x = torch.ones(*LEAD, D)
        before = layer.remote(x)
        expected = layer.plain(x)
        x.add_(1)
        after = layer.remote(x)
        torch.testing.assert_close(before.clone(), expected)
        torch.testing.assert_close(after.clone(), layer.plain(x))
        x.mul_(3)
        again = layer.remote(x)
        torch.testing.assert_close(again.clone(), layer.plain(x))


@pytest.mark.parametrize("grad", [False, True])
def test_an_addition_in_place_is_recorded(layer: Layer, grad: bool) -> None:
    """Who has the tensor has the sum, and what was computed of it before stays."""
    deferred, plain, x, y = layer.both(grad=grad)
    found = []
    for h in (deferred, plain):
        before, also, flat = h * 2, h, h.view(6, D)
        h += h * 3
        assert h is also
        found.append([each.clone() for each in (before * 1, also, flat, h + 1)])
    assert layer.trips == 1
    torch.testing.assert_close(found[0], found[1])
    if grad:
        for tensors in found:
            sum(each.square().sum() for each in tensors).backward()  # type: ignore[union-attr]
        torch.testing.assert_close(x.grad, y.grad)


def test_an_addition_in_place_to_what_has_columns_elsewhere_is_theirs_too(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    for h in (deferred, plain):
        left, _ = h.chunk(2, -1)
        left += 1
        h += 2
    torch.testing.assert_close(deferred.clone(), plain)


def test_an_addition_in_place_that_brings_a_gradient_has_it(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    grads = []
    for h in (deferred, plain):
        x = torch.ones(*LEAD, D, requires_grad=True)
        h += x * 1
        h.square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_views_share_the_memory_of_the_whole(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    flat, again = deferred.view(-1, D), deferred.reshape(3, 2, D)
    assert (flat.shape, again.shape) == ((6, D), (3, 2, D))
    assert layer.trips == 0
    flat.add_(1)
    for view in (deferred, flat, again):
        torch.testing.assert_close(view.clone().view(-1), plain.view(-1) + 1)
    assert layer.trips == 1


def test_columns_share_the_memory_of_a_whole_that_is_kept(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    left, right = deferred.chunk(2, -1)
    left.mul_(0)
    torch.testing.assert_close(deferred.clone()[..., D // 2 :], plain[..., D // 2 :])
    assert not deferred.clone()[..., : D // 2].any()
    torch.testing.assert_close(right.clone(), plain[..., D // 2 :])
    assert layer.trips == 1


def test_what_makes_no_view_in_torch_raises_torchs_error(layer: Layer) -> None:
    deferred, plain, _, _ = layer.both()
    for each in (deferred, plain):
        with pytest.raises(RuntimeError, match=r"shape '\[5, 32\]' is invalid"):
            each.view(5, D)


@pytest.mark.parametrize("make", [lambda x: x.view(-1, D), lambda x: x[:, :], lambda x: x])
@pytest.mark.parametrize("looking", [torch.no_grad, torch.inference_mode])
def test_who_looks_first_does_not_decide_about_gradients(layer: Layer, make: Any, looking: Any) -> None:
    deferred, plain, x, y = layer.both(grad=True)
    found, expected = make(deferred), make(plain)
    with looking():
        found.exp()
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("make", [lambda x: x * 2, lambda x: x + x, lambda x: x.detach()])
def test_what_was_recorded_without_gradient_has_none(layer: Layer, make: Any) -> None:
    x = torch.ones(*LEAD, D, requires_grad=True)
    with torch.no_grad():
        found = make(layer.remote(x))
    assert not found.requires_grad
    assert not found.exp().requires_grad
    assert not (found * x.detach()).requires_grad


def test_what_depends_on_no_gradient_needs_none_beside_what_does(layer: Layer) -> None:
    x, frozen = torch.ones(*LEAD, D, requires_grad=True), torch.ones(*LEAD, D)
    constant = layer.remote(frozen)
    both = constant + x
    assert (constant.requires_grad, both.requires_grad) == (False, True)
    both.sum()
    assert not pending(constant)
    assert (constant.requires_grad, both.requires_grad) == (False, True)
    assert layer.trips == 1


def test_its_identity_is_its_hash(layer: Layer) -> None:
    deferred, _, _, _ = layer.both()
    assert {deferred: 1}[deferred] == 1
    assert type(deferred) is Deferred
    assert layer.trips == 0
