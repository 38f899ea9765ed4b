"""In bfloat16, too, the comparison of losses finds a contender whose backward or optimizer does nothing."""

from __future__ import annotations

import pytest
import torch

from symbiosis_bench.end_to_end.contender import Contender, open_plain
from symbiosis_bench.end_to_end.messages import Shape, Train, Trained
from symbiosis_bench.end_to_end.verification import Verifier
from symbiosis_bench.end_to_end.work import train
from symbiosis_scheduler.frozen.embedded import resolve

ORDER = Train(Shape(1, 128), 2)
"""One update, and one loss after it."""


@pytest.fixture(scope="module")
def contender() -> Contender:
    """Plain PEFT on the embedded model: the losses of a random one hardly move, whatever is learned."""
    folder = resolve("smollm2")
    return Contender(open_plain(folder, "bfloat16", "cpu"), folder, 0)


@pytest.fixture(scope="module")
def honest(contender: Contender) -> Trained:
    return train(contender, ORDER, lambda: None)


def losses_pass(contender: Contender, reference: Trained) -> bool:
    return Verifier("bfloat16").losses("x", train(contender, ORDER, lambda: None), reference).passed


def test_an_update_that_is_left_out_is_found(
    contender: Contender, honest: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert losses_pass(contender, honest)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer, closure=None: None)
    assert not losses_pass(contender, honest)


def test_input_gradients_of_frozen_layers_that_are_zero_are_found(contender: Contender, honest: Trained) -> None:
    """Those of one kind of layer; what the residual carries past it stays."""
    hooks = [
        module.register_full_backward_hook(lambda _module, given, _out: tuple(torch.zeros_like(g) for g in given))
        for name, module in contender.model.named_modules()
        if name.endswith("down_proj")
    ]
    try:
        passed = losses_pass(contender, honest)
    finally:
        for hook in hooks:
            hook.remove()
    assert not passed
