"""What users do to a model: hooks, threads, copies, checkpoints of their own."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from tests.adapters.graph_cut.batch import BATCH, IDS, check_gradients
from tests.adapters.local import Pair
from tests.adapters.training import close


def test_hooks_see_and_change_what_they_would_in_the_plain_model(remote: Any, plain: Any) -> None:
    def run(model: Any) -> Iterator[Tensor]:
        seen: list[Tensor] = []

        def watch(module: Any, args: Any, output: Tensor) -> None:
            output.retain_grad()
            seen.append(output)

        layers = model.base_model.model.model.layers
        hooks: list[Callable[..., Any]] = [
            lambda module, args, output: seen.append(output.detach().clone()),
            lambda module, args, output: output * 1.5,
            watch,
        ]
        handles = [layers[index].register_forward_hook(hook) for index, hook in enumerate(hooks)]
        handles.append(layers[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:])))
        handles.append(layers[0].mlp.register_forward_hook(lambda module, args, output: output.mul_(2)))
        loss = model(**BATCH).loss
        loss.backward()
        for handle in handles:
            handle.remove()
        yield from (loss, seen[0], value_of(seen[1]))
        assert seen[1].grad is not None
        yield seen[1].grad

    for found, expected in zip(run(remote), run(plain), strict=True):
        close(found, expected)
    check_gradients(remote, plain)


def test_the_inputs_may_be_made_to_require_a_gradient(remote: Any, plain: Any) -> None:
    inputs = []
    for model in (remote, plain):
        model.enable_input_require_grads()
        embedded: list[Any] = []
        handle = model.get_input_embeddings().register_forward_hook(
            lambda module, args, output, embedded=embedded: embedded.append(output)
        )
        model(**BATCH).loss.backward()
        handle.remove()
        inputs.append(embedded[0].grad)
    close(inputs[0], inputs[1])
    check_gradients(remote, plain)


def test_threads_share_a_model(remote: Any, plain: Any) -> None:
    batches = [IDS.roll(index, 1) for index in range(4)]
    found: list[Any] = [None] * len(batches)

    def run(index: int) -> None:
        for _ in range(3):
            loss = remote(input_ids=batches[index], labels=batches[index]).loss
            found[index] = torch.autograd.grad(loss, remote.get_parameter(WEIGHT))[0]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ids, grad in zip(batches, found, strict=True):
        loss = plain(input_ids=ids, labels=ids).loss
        close(grad, torch.autograd.grad(loss, plain.get_parameter(WEIGHT))[0])


WEIGHT = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"


def test_a_copied_model_is_equal_and_apart(remote: Any) -> None:
    expected = remote(input_ids=IDS).logits.clone()
    copied = copy.deepcopy(remote)
    with torch.no_grad():
        copied.get_parameter(WEIGHT).mul_(3)
        copied.base_model.model.model.norm.weight.mul_(2)
    assert torch.equal(remote(input_ids=IDS).logits.clone(), expected)
    assert not torch.allclose(copied(input_ids=IDS).logits.clone(), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_users_own_checkpoint_is_right_or_an_error(pair: Pair, reentrant: bool) -> None:
    def run(mlp: Any) -> Any:
        x = torch.ones(2, 32, requires_grad=True)
        checkpoint(mlp, x.exp(), use_reentrant=reentrant).square().sum().backward()
        return x.grad

    expected = run(pair.plain().requires_grad_(False).model.layers[0].mlp)
    mlp = pair.remote(Cut.GRAPH).model.layers[0].mlp
    if reentrant:
        with pytest.raises(UsageError, match="returned a deferred tensor"):
            run(mlp)
    else:
        close(run(mlp), expected)
