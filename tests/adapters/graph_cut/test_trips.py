"""The graph cut makes one trip per block."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symbiosis_adapters.deferred.tensor import Deferred
from symbiosis_adapters.trips.cut import Cut
from tests.adapters.graph_cut.batch import BATCH, IDS, check_gradients
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QV, adapted


@pytest.mark.parametrize(
    ("targets", "trips"), [(None, LAYERS + 1), (QV, LAYERS + 1), ("all-linear", 2 * LAYERS + 1)]
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_forward_makes_one_trip_per_block_and_one_to_begin_with(
    architecture: str, targets: Any, trips: int, mode: Any
) -> None:
    pair = Pair(architecture)
    model = pair.remote(Cut.GRAPH)
    if targets:
        model = adapted(model, targets)
    for rows in (IDS, IDS[:1, :1]):
        pair.rows.trips.clear()
        with mode():
            model(input_ids=rows).logits.sum()
        assert len(pair.rows.forward) == trips
        assert pair.rows.backward == []


@pytest.mark.parametrize(("targets", "trips"), [(QV, LAYERS + 1), ("all-linear", 2 * LAYERS + 1)])
def test_a_backward_makes_no_more_trips_than_the_forward(pair: Pair, targets: Any, trips: int) -> None:
    """The first needs none, for nothing below it is trained."""
    model = adapted(pair.remote(Cut.GRAPH), targets)
    for _ in range(2):
        pair.rows.trips.clear()
        model(**BATCH).loss.backward()
        assert (len(pair.rows.forward), len(pair.rows.backward)) == (trips, trips - 1)


def test_a_decode_step_makes_the_segments_of_a_training_step(pair: Pair) -> None:
    model = adapted(pair.remote(Cut.GRAPH), QV)
    model(input_ids=IDS).logits.sum()
    known = len(pair.rows.segments)
    with torch.no_grad():
        model(input_ids=IDS[:1, :1]).logits.sum()
    assert len(pair.rows.segments) == known


def test_of_a_prompt_only_the_rows_that_are_wanted_go_through_the_end(pair: Pair) -> None:
    """As `generate` asks for the logits of the last token. Neither are there more trips than for all logits."""
    remote, plain = adapted(pair.remote(Cut.GRAPH), QV), adapted(pair.plain(), QV)
    with torch.no_grad():
        pair.rows.trips.clear()
        found = remote(input_ids=IDS, logits_to_keep=1).logits * 1
        torch.testing.assert_close(found, plain(input_ids=IDS, logits_to_keep=1).logits, rtol=1e-5, atol=1e-5)
    assert [trip.rows for trip in pair.rows.trips] == [IDS.numel()] * LAYERS + [len(IDS)]


def test_the_rows_that_are_wanted_have_the_gradients_of_all(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        model.train()
        model(**BATCH | {"labels": None}, logits_to_keep=4).logits.square().mean().backward()
    check_gradients(remote, plain)


def test_hidden_states_may_be_looked_at_after_rows_were_taken_of_them(remote: Any, plain: Any) -> None:
    with torch.no_grad():
        mine, own = (
            model(input_ids=IDS, logits_to_keep=1, output_hidden_states=True) for model in (remote, plain)
        )
        torch.testing.assert_close(mine.logits * 1, own.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.hidden_states[-1] * 1, own.hidden_states[-1], rtol=1e-5, atol=1e-5)


def test_every_trip_is_counted_by_name(pair: Pair) -> None:
    model = pair.remote(Cut.GRAPH)
    pair.rows.trips.clear()
    for _ in range(2):
        model(input_ids=IDS).logits.sum()
    made = model.symbiosis_deferral.trips.made
    assert made.total() == len(pair.rows.forward) == 2 * (LAYERS + 1)
    assert set(made) == set(pair.rows.forward)


def test_no_rows_need_no_trip(pair: Pair) -> None:
    model = pair.remote(Cut.GRAPH)
    pair.rows.trips.clear()
    for lead in ((0,), (2, 0)):
        assert model.get_input_embeddings()(torch.empty(*lead, dtype=torch.int64)).shape == (*lead, 32)
        assert model.lm_head(torch.empty(*lead, 32)).shape == (*lead, 96)
        assert model.model.layers[0].self_attn.q_proj(torch.empty(*lead, 32)).shape == (*lead, 32)
    assert pair.rows.trips == []


def test_the_outputs_are_deferred_tensors_at_all(remote: Any) -> None:
    assert type(remote(input_ids=IDS).logits) is Deferred
