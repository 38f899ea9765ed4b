"""A training step and a decode step make the trips that their cut promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QV, adapt, batches, lora


def trips(cut: Cut, **more: Any) -> tuple[int, int]:
    pair = Pair("llama")
    model = adapt(pair.remote(cut), lora(QV, **more)).train()
    pair.rows.trips.clear()
    model(**batches(1)[0]).loss.backward()
    return len(pair.rows.forward), len(pair.rows.backward)


def test_the_number_of_trips_is_what_the_cut_promises() -> None:
    """Backward, the lowest adapted layer needs no gradient of its own input."""
    assert trips(Cut.GRAPH) == (LAYERS + 1, LAYERS)
    assert trips(Cut.SIBLINGS) == (4 * LAYERS + 2, 4 * LAYERS + 1 - 1)
    assert trips(Cut.LINEAR) == (7 * LAYERS + 2, 7 * LAYERS + 1 - 3)


def test_below_the_lowest_adapter_nothing_goes_backward() -> None:
    assert trips(Cut.GRAPH, layers_to_transform=[LAYERS - 1]) == (LAYERS + 1, 1)
    assert trips(Cut.SIBLINGS, layers_to_transform=[LAYERS - 1]) == (4 * LAYERS + 2, 1 + 3)
    assert trips(Cut.LINEAR, layers_to_transform=[LAYERS - 1]) == (7 * LAYERS + 2, 1 + 4)


@pytest.mark.parametrize(("cut", "each"), [(Cut.GRAPH, LAYERS + 1), (Cut.SIBLINGS, 4 * LAYERS + 2)])
def test_a_decode_step_is_one_row_per_trip_and_sequence(cut: Cut, each: int) -> None:
    """Also in the prefill, whose last row alone goes through the head."""
    pair = Pair("llama")
    model = adapt(pair.remote(cut), lora(QV))
    pair.rows.trips.clear()
    model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert len(pair.rows.forward) == 4 * each
    assert {trip.rows for trip in pair.rows.trips} == {3, 1}
    assert pair.rows.backward == []
