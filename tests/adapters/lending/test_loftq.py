"""LoftQ on a base that is not quantised: PEFT quantises its weights, and corrects for what that costs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoftQConfig, PeftConfig
from peft.tuners.lora import layer
from peft.utils import loftq_utils

from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from tests.adapters.lending.methods import lent_bytes
from tests.adapters.local import Pair
from tests.adapters.training import QUIET, QV, Run, adapt, lora, tokens

pytestmark = QUIET


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT 0.21 computes LoftQ on a GPU and nowhere else: here it is its own function, with another device."""
    pytest.importorskip("bitsandbytes", reason="it is what LoftQ quantises with")
    pytest.importorskip("scipy", reason="bitsandbytes wants it")
    source = inspect.getsource(loftq_utils.loftq_init)
    assert source.count('"cuda"') == 1
    space: dict[str, Any] = dict(vars(loftq_utils))
    exec(source.replace('"cuda"', '"cpu"'), space)
    monkeypatch.setattr(layer, "loftq_init", space["loftq_init"])


def loftq(bits: int, rounds: int) -> Callable[[], PeftConfig]:
    given: Any = LoftQConfig(loftq_bits=bits, loftq_iter=rounds)
    return lora(QV, init_lora_weights="loftq", loftq_config=given)


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LENT])
@pytest.mark.parametrize(("bits", "rounds"), [(4, 1), (4, 2), (8, 1)])
def test_it_trains_as_plain_peft_does(bits: int, rounds: int, cut: Cut) -> None:
    pair = Pair("llama")
    before = lent_bytes(pair)
    plain, ours = (Run(adapt(base, loftq(bits, rounds))) for base in (pair.plain(), pair.remote(cut)))
    ours.check(plain)
    assert torch.equal(tokens(ours.model), tokens(plain.model))
    assert lent_bytes(pair) == before


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
def test_it_is_refused_where_nothing_is_lent(cut: Cut) -> None:
    wanted = r"making a Params4bit of it, which \S+\.Linear\.loftq_init needs for \S+\.get_peft_model, .*"
    with pytest.raises(UsageError, match=wanted + r'set lending\.allow = "same_user"'):
        adapt(Pair("llama", allow="nobody").remote(cut), loftq(4, 1))
