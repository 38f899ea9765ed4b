"""Heads that share keys are attended together in a step of one position, and nothing else is changed."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from symbiosis_adapters.model.attention import _attention, attend_together
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QV, adapted

PROMPT: Final = torch.tensor([[5, 17, 3, 41], [9, 2, 60, 33]])
KEYS: Final = 11
MASKS: Final[dict[str, Tensor | None]] = {
    "none": None,
    "for all heads": torch.arange(KEYS) > torch.tensor([3, 0]).view(2, 1, 1, 1),
    "of numbers": torch.linspace(-3, 0, 2 * KEYS).view(2, 1, 1, KEYS),
    "a head's own": torch.linspace(-3, 0, 6 * KEYS).view(1, 6, 1, KEYS),
}


class Attention(nn.Module):
    def __init__(self, heads: int, shared: int) -> None:
        super().__init__()
        self.num_key_value_groups = heads // shared
        self.is_causal = True
        self.symbiosis_packs = True


def tensors(heads: int, shared: int, positions: int) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(heads)
    return (
        torch.randn(2, heads, positions, 16, generator=made),
        torch.randn(2, shared, KEYS, 16, generator=made),
        torch.randn(2, shared, KEYS, 16, generator=made),
    )


@pytest.fixture
def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions torch was given in every attention since."""
    plain, seen = nn.functional.scaled_dot_product_attention, list[int]()

    def watched(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(query.shape[2])
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    return seen


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize(("heads", "shared", "positions"), [(6, 2, 1), (6, 1, 1), (6, 6, 1), (6, 2, 3)])
def test_it_is_attention(mask: Tensor | None, heads: int, shared: int, positions: int) -> None:
    given, module = tensors(heads, shared, positions), Attention(heads, shared)
    got, _ = _attention(module, *given, mask, scaling=0.3, dropout=0.0)
    expected, _ = sdpa_attention_forward(module, *given, mask, scaling=0.3, dropout=0.0)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "for all heads"])
def test_heads_that_share_keys_are_rows_of_one_product(mask: str, rows_seen: list[int]) -> None:
    _attention(Attention(6, 2), *tensors(6, 2, 1), MASKS[mask])
    assert rows_seen == [3]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_steps_of_a_remote_model_are_attended_so_and_give_plain_tokens(padded: bool, rows_seen: list[int]) -> None:
    pair = Pair("llama")
    mask = torch.ones_like(PROMPT)
    mask[0, :2] = not padded
    given: Any = {"attention_mask": mask, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = adapted(pair.plain(), QV).generate(input_ids=PROMPT, **given)
    assert 2 not in rows_seen or padded, "a plain model is left alone; it packs by itself where there is a mask"
    rows_seen.clear()
    assert torch.equal(adapted(pair.remote(), QV).generate(input_ids=PROMPT, **given), expected)
    assert rows_seen == [4] * LAYERS + [2] * LAYERS * 3


def test_an_attention_that_somebody_has_registered_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(*args: Any, **kwargs: Any) -> Any:
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", own)
    Pair("llama").remote()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own


def test_arguments_that_transformers_takes_by_position_are_passed_on() -> None:
    given, module = tensors(6, 2, 1), Attention(6, 2)
    got, _ = _attention(module, *given, None, 0.0, 0.3)
    expected, _ = sdpa_attention_forward(module, *given, None, 0.0, 0.3)
    torch.testing.assert_close(got, expected)


def test_one_query_for_all_sequences_of_a_batch_is_attended_for_each() -> None:
    query, key, value = tensors(6, 2, 1)
    got, _ = _attention(Attention(6, 2), query[:1], key, value, None)
    expected, _ = sdpa_attention_forward(Attention(6, 2), query[:1], key, value, None)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [None, [3, 3], "3"])
def test_what_a_module_calls_its_groups_and_is_no_number_is_left_alone(groups: Any) -> None:
    model = Pair("llama").plain()
    odd = model.get_submodule("model.layers.0.self_attn")
    odd.num_key_value_groups = groups
    attend_together(model)
    assert not hasattr(odd, "symbiosis_packs")
    assert hasattr(model.get_submodule("model.layers.1.self_attn"), "symbiosis_packs")
