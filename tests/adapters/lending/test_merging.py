"""A merged model is the plain merged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from symbiosis_adapters.explanation import explain
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from tests.adapters.lending.methods import MERGED
from tests.adapters.local import Pair
from tests.adapters.training import QUIET, QV, adapt, adapted, batches, logits, lora, tokens

pytestmark = QUIET


@pytest.mark.parametrize(
    ("name", "cut"), [*((name, Cut.GRAPH) for name in MERGED), *(("lora", cut) for cut in Cut if cut != Cut.GRAPH)]
)
def test_a_merged_model_is_the_plain_merged_one_and_loads_in_transformers(
    name: str, cut: Cut, pair: Pair, tmp_path: Path
) -> None:
    trained = [adapt(base, MERGED[name]).eval() for base in (pair.plain(), pair.remote(cut))]
    with torch.no_grad():
        for model in trained:
            model(**batches(1)[0])  # so that whatever a forward leaves behind is there
    plain, ours = (model.merge_and_unload(safe_merge=True) for model in trained)
    torch.testing.assert_close(logits(ours), logits(plain), rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens(ours), tokens(plain))
    ours.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(loaded), logits(plain), rtol=1e-4, atol=1e-5)
    assert explain(ours).taken or cut is Cut.LENT


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("safe", [True, False])
def test_a_layer_computes_with_what_was_merged_into_it_and_with_the_base_once_that_is_taken_out(
    cut: Cut, safe: bool, pair: Pair
) -> None:
    """Between forwards, when passages and sibling groups have got used to the layer."""
    model, plain = (adapted(base) for base in (pair.remote(cut), pair.plain()))
    apart = logits(model)
    with model.disable_adapter():
        base = logits(model)
    assert (apart - base).abs().max() > 1e-3
    for _ in range(2):
        model.merge_adapter(safe_merge=safe)
        plain.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(logits(model), logits(plain), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits(model), apart, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        plain.unmerge_adapter()
        with model.disable_adapter():
            torch.testing.assert_close(logits(model), base, rtol=1e-4, atol=1e-5)


def test_a_refused_merge_leaves_the_model_as_it_was() -> None:
    model = adapt(Pair("llama", allow="nobody").remote(), lora(QV))
    before = logits(model)
    for merge in (model.merge_and_unload, lambda: model.merge_adapter(safe_merge=True)):
        with pytest.raises(UsageError, match="is not possible"):
            merge()
    assert torch.equal(logits(model), before)
