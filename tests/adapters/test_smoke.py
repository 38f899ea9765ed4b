"""Small things that scripts do with a model, each once."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_core.errors import UsageError
from tests.adapters.local import VOCABULARY, Pair
from tests.adapters.training import adapted
from tests.words import tokenizer_of

IDS = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def test_its_size_and_its_parameters_are_counted_as_a_plain_models() -> None:
    pair = Pair("llama")
    plain, remote = adapted(pair.plain()), adapted(pair.remote())
    assert remote.get_nb_trainable_parameters() == plain.get_nb_trainable_parameters()
    assert remote.num_parameters() == plain.num_parameters()
    assert remote.get_memory_footprint() == plain.get_memory_footprint()


def test_it_is_printed_whole() -> None:
    text = repr(adapted(Pair("llama").remote()))
    assert text.count("RemoteLinear") == 3 * 7 + 1
    assert "lora_A" in text


def test_tokens_are_streamed_as_they_come() -> None:
    words = ["<pad>", "<unk>", *(f"w{n}" for n in range(2, VOCABULARY))]
    tokenizer = tokenizer_of(words, "<unk>", pad_token="<pad>", unk_token="<unk>")
    pair, texts = Pair("llama"), []
    for model in (pair.plain(), pair.remote()):
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        asked = {"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1]), "streamer": streamer, **GREEDY}
        thread = threading.Thread(target=model.generate, kwargs=asked)
        thread.start()
        texts.append(list(streamer))
        thread.join()
    assert texts[0] == texts[1]
    assert len(texts[0]) > 2


def test_a_table_is_made_longer_as_that_of_a_plain_model() -> None:
    """By default transformers draws new rows about the mean of the old ones: from the values, and at random."""
    pair = Pair("llama")
    tables = []
    for model in (pair.plain(), pair.remote()):
        torch.manual_seed(4)
        model.resize_token_embeddings(VOCABULARY + 7)
        assert model.config.vocab_size == VOCABULARY + 7
        assert model(input_ids=IDS + 10).logits.shape[-1] == VOCABULARY + 7
        tables.append(model.get_input_embeddings().weight)
    torch.testing.assert_close(tables[1], tables[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", [lambda model: model, adapted, lambda model: {"model": model}])
def test_it_cannot_be_pickled_and_says_so_before_any_weight_is_lent(wrap: Any, tmp_path: Path) -> None:
    pair = Pair("llama")
    lent: list[bool] = []
    borrow = pair.borrow

    def noted() -> Any:
        lent.append(True)
        return borrow()

    vars(pair)["borrow"] = noted
    model = wrap(pair.remote())
    for attempt in (lambda: torch.save(model, tmp_path / "model.pt"), lambda: pickle.dumps(model)):
        with pytest.raises(UsageError, match="cannot be pickled, it holds a connection"):
            attempt()
    assert not lent


def test_it_is_copied_none_the_less() -> None:
    model = Pair("llama").remote()
    copied = copy.copy(copy.deepcopy(model))
    assert torch.equal(copied(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert isinstance(copied.model.embed_tokens.weight, FrozenWeight)
