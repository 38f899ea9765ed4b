"""What somebody writes to lent weights is his alone, and counts in his model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from tests.adapters.local import Pair
from tests.adapters.training import Run, adapt, logits, lora


def test_a_write_is_seen_by_its_writer_and_by_nobody_else(pair: Pair) -> None:
    models = [pair.remote(), pair.remote(), pair.remote(Cut.LENT)]
    models.append(copy.deepcopy(models[0]))
    before = [logits(model) for model in models]
    with torch.no_grad():
        models[0].model.layers[0].mlp.up_proj.weight.mul_(3)
        models[2].model.layers[1].mlp.up_proj.weight.data[0] = 7.0
    after = [logits(model) for model in models]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, False, True]


@pytest.mark.parametrize("index", [torch.tensor(5), np.int64(5), (torch.tensor(5), slice(2, 4))])
def test_a_write_to_one_row_counts_however_it_was_found(pair: Pair, index: Any) -> None:
    ours, other, plain = pair.remote(), pair.remote(), pair.plain()
    with torch.no_grad():
        for model in (ours, plain):
            model.model.embed_tokens.weight[index].add_(1)
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-5, atol=1e-6)
    assert not torch.equal(other.model.embed_tokens.weight * 1, plain.model.embed_tokens.weight)


def test_a_write_to_a_tied_weight_counts_wherever_it_is_used(pair: Pair) -> None:
    """Llama here has tied embeddings."""
    plain, ours = pair.plain(), pair.remote()
    for model in (plain, ours):
        model.lm_head.weight.data += 0.5
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-5, atol=1e-6)


def test_the_lent_cut_asks_the_daemon_for_no_row_and_has_the_models_bits(pair: Pair) -> None:
    plain, ours = pair.plain(), pair.remote(Cut.LENT)
    assert type(ours.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert torch.equal(logits(ours), logits(plain))
    Run(adapt(ours, lora("all-linear"))).check(Run(adapt(plain, lora("all-linear"))))
    assert pair.rows.trips == []
    assert str(explain(ours)) == "cut: lent, no trips: computed here, with the daemon's weights"


def test_a_weight_that_was_put_aside_comes_back(pair: Pair) -> None:
    model = pair.remote()
    before = logits(model)
    layer = model.model.layers[0].mlp.up_proj
    aside = layer.weight.data
    layer.weight.data = torch.zeros_like(layer.weight)
    assert not torch.equal(logits(model), before)
    layer.weight.data = aside
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)


def test_lent_values_pickle_and_convert(pair: Pair) -> None:
    ours, plain = pair.remote().lm_head.weight, pair.plain().lm_head.weight
    assert torch.equal(pickle.loads(pickle.dumps(ours)), plain)
    assert torch.equal(ours.to(torch.float64), plain.double())
    assert torch.equal(ours.data.T.clone() + 0, plain.T)
    assert torch.equal(torch.zeros(plain.shape).copy_(ours), plain)
    assert isinstance(ours, FrozenWeight)


def test_a_larger_vocabulary_is_this_process_own(pair: Pair) -> None:
    plain, ours = pair.plain(), pair.remote()
    for model in (plain, ours):
        model.resize_token_embeddings(120, mean_resizing=False)
        model.lm_head.weight.data[96:] = 0.0
    assert logits(ours).shape[-1] == 120
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-5, atol=1e-6)
