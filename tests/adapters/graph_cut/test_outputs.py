"""Outputs of a forward may be looked at in any order, kept, and differentiated again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symbiosis_adapters.deferred.tensor import pending
from symbiosis_core.errors import UsageError
from tests.adapters.graph_cut.batch import BATCH, IDS, check_gradients
from tests.adapters.local import LAYERS
from tests.adapters.training import close


def test_outputs_of_two_forwards_may_be_kept(remote: Any, plain: Any) -> None:
    def run(model: Any) -> Iterator[Any]:
        first, second = model(input_ids=IDS), model(input_ids=IDS + 0)
        third = model(input_ids=IDS.flip(1))
        (first.logits.square().sum() - (second.logits * third.logits).sum()).backward()
        yield from (first.logits, second.logits, third.logits)

    for found, expected in zip(run(remote), run(plain), strict=True):
        close(found, expected)
    check_gradients(remote, plain)


def test_hidden_states_are_the_plain_models_and_keep_the_loss(remote: Any, plain: Any) -> None:
    outputs = [model(**BATCH, output_hidden_states=True) for model in (remote, plain)]
    assert len(outputs[0].hidden_states) == LAYERS + 1
    for found, expected in zip(outputs[0].hidden_states, outputs[1].hidden_states, strict=True):
        close(found, expected)
    for output in outputs:
        (output.loss + sum(h.square().mean() for h in output.hidden_states)).backward()
    check_gradients(remote, plain)


def test_hidden_states_kept_refuse_half_a_gradient(remote: Any) -> None:
    output = remote(**BATCH, output_hidden_states=True)
    for hidden in output.hidden_states[1:]:
        with pytest.raises(UsageError, match="after frozen layers had used the tensor"):
            hidden.retain_grad()


@pytest.mark.parametrize("loss_first", [True, False])
def test_the_loss_and_the_logits_are_both_right_in_any_order(remote: Any, plain: Any, loss_first: bool) -> None:
    for model in (remote, plain):
        output = model(**BATCH)
        parts = [lambda: output.loss, lambda: output.logits.square().mean()]  # noqa: B023
        total = sum(part() for part in (parts if loss_first else reversed(parts)))
        total.backward()
    check_gradients(remote, plain)


def test_the_logits_may_be_looked_at_after_the_backward(remote: Any, plain: Any) -> None:
    outputs = [model(**BATCH) for model in (remote, plain)]
    for output in outputs:
        output.loss.backward()
    assert pending(outputs[0].logits)
    with torch.no_grad():
        close(outputs[0].logits, outputs[1].logits)


def test_who_looks_at_the_logits_without_gradient_takes_none_away(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        logits = model(input_ids=IDS).logits
        flat = logits.view(-1, logits.shape[-1])
        with torch.inference_mode():
            assert flat.argmax(-1).shape == (IDS.numel(),)
        nn.functional.cross_entropy(flat, IDS.view(-1)).backward()
    check_gradients(remote, plain)


def test_a_graph_that_is_retained_may_be_gone_through_twice(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        loss = model(**BATCH).loss
        loss.backward(retain_graph=True)
        loss.backward()
    check_gradients(remote, plain)


def test_a_second_derivative_is_refused(remote: Any) -> None:
    remote.base_model.model.set_attn_implementation("eager")  # the other has no second derivative of its own
    loss = remote(**BATCH).loss
    weights = [p for p in remote.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    with pytest.raises(UsageError, match="do not support double backward"):
        sum(grad.square().sum() for grad in grads).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("labels", [True, False])
def test_nothing_of_a_forward_stays_alive(remote: Any, labels: bool) -> None:
    seen: list[weakref.ref[Any]] = []

    def note(module: Any, args: Any, output: Any) -> None:
        for each in (*args, output):
            if isinstance(each, Tensor):
                seen.append(weakref.ref(each))

    handles = [module.register_forward_hook(note) for module in remote.modules()]
    gc.collect()
    gc.disable()
    try:
        output = remote(input_ids=IDS.clone(), labels=IDS.clone() if labels else None, use_cache=False)
        (output.loss if labels else output.logits.square().mean()).backward()
        seen.append(weakref.ref(output.logits))
        del output
        left = [ref() for ref in seen if ref() is not None and not isinstance(ref(), nn.Parameter)]
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()
    assert len(seen) > 20
    assert left == []
