"""Frozen vectors are known as long as they are there, and hinder nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.adapters.local import Pair


@pytest.fixture
def _swapping() -> Iterator[None]:
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.usefixtures("_swapping")
def test_a_model_is_converted_where_torch_swaps_parameters() -> None:
    """It swaps none that somebody holds a weak reference to."""
    pair = Pair("llama")
    plain, mine = pair.plain().to(torch.float64), pair.remote().to(torch.float64)
    ids = torch.tensor([[5, 17, 3, 41]])
    with torch.no_grad():
        expected, got = plain(input_ids=ids).logits, mine(input_ids=ids).logits
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
