"""generate() in all its ways, and what builds on it, gives the tokens that a plain base gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import VOCABULARY, Pair
from tests.adapters.training import adapted
from tests.words import tokenizer_of

IDS = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))
PADDED = {"input_ids": IDS.clone(), "attention_mask": torch.ones_like(IDS)}
PADDED["input_ids"][0, :3] = 0
PADDED["attention_mask"][0, :3] = 0
ONE = {"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1])}
LENGTH = {"max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}

WAYS: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
    "sampling": (PADDED, {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9}),
    "beams": (PADDED, {"num_beams": 3, "num_return_sequences": 2}),
    "sampled beams": (PADDED, {"num_beams": 3, "do_sample": True}),
    "repetition": (PADDED, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}),
    "no cache": (PADDED, {"use_cache": False}),
    "static cache": (PADDED, {"cache_implementation": "static"}),
    "quantised cache": (PADDED, {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}),
    "prompt lookup": (ONE, {"prompt_lookup_num_tokens": 3}),
    "several sequences": (ONE, {"do_sample": True, "num_return_sequences": 3}),
}

GROUPED = {"quanto": ("optimum.quanto", 0), "hqq": ("hqq", 1)}
"""Kinds of quantised caches that a package computes: which one, and along which axis of keys and values."""


def same(pair: Pair, cut: Cut, ask: Callable[[Any], Any]) -> Any:
    """Asks a plain and a remote model, from the same random numbers; returns the answer that both give."""
    answers = []
    for model in (adapted(pair.plain()), adapted(pair.remote(cut))):
        torch.manual_seed(5)
        answers.append(ask(model))
    assert (
        torch.equal(answers[0], answers[1]) if isinstance(answers[0], torch.Tensor) else answers[0] == answers[1]
    )
    return answers[1]


@pytest.mark.parametrize(
    ("way", "cut"), [*((way, Cut.GRAPH) for way in WAYS), ("beams", Cut.SIBLINGS), ("static cache", Cut.SIBLINGS)]
)
def test_the_tokens_are_those_of_a_plain_base(way: str, cut: Cut) -> None:
    given, asked = WAYS[way]
    tokens = same(Pair("llama"), cut, lambda model: model.generate(**given, **asked, **LENGTH))
    assert tokens.shape[1] == 8 + 12


@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("backend", GROUPED)
def test_a_cache_in_four_bits_gives_the_tokens_of_a_plain_base(backend: str, beams: int, cut: Cut) -> None:
    """Quantised anew after every fourth token. The third kind, fp8, needs no package and is one of `WAYS`."""
    package, axis = GROUPED[backend]
    pytest.importorskip(package, reason=f"{package} is not installed, which this cache is of")
    config = {"backend": backend, "nbits": 4, "q_group_size": 8, "residual_length": 4}
    config |= {"axis_key": axis, "axis_value": axis}
    asked = {"cache_implementation": "quantized", "cache_config": config, "num_beams": beams, **LENGTH}
    tokens = same(Pair("llama"), cut, lambda model: model.generate(**PADDED, **asked))
    assert tokens.shape[1] == 8 + 12


@pytest.mark.parametrize("architecture", ["gemma3_text", "mixtral", "gpt2"])
def test_other_families_search_with_beams_as_well(architecture: str) -> None:
    pair = Pair(architecture)
    answers = [model.generate(**PADDED, num_beams=2, **LENGTH) for model in (pair.plain(), pair.remote())]
    assert torch.equal(*answers)


def test_a_smaller_model_may_assist() -> None:
    pair = Pair("llama")
    assistant = pair.plain()
    same(pair, Cut.GRAPH, lambda model: model.generate(**ONE, assistant_model=assistant, **LENGTH))


def test_a_remote_model_may_assist() -> None:
    pair = Pair("llama")
    plain, helped = adapted(pair.plain()), adapted(pair.plain())
    expected = plain.generate(**ONE, **LENGTH)
    assert torch.equal(helped.generate(**ONE, assistant_model=pair.remote(), **LENGTH), expected)


def test_scores_and_hidden_states_come_along() -> None:
    asked = {**LENGTH, "return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True}

    def ask(model: Any) -> torch.Tensor:
        answer = model.generate(**PADDED, **asked)
        assert len(answer.scores) == 12
        last: torch.Tensor = answer.hidden_states[-1][-1]
        assert last.isfinite().all()
        sequences: torch.Tensor = answer.sequences
        return sequences

    same(Pair("llama"), Cut.GRAPH, ask)


def test_continuous_batching_gives_every_request_the_same_tokens() -> None:
    """More requests than are computed at once, of several lengths, in a thread of transformers'."""
    prompts = [IDS[0].tolist(), IDS[1, :5].tolist(), IDS[0, 2:].tolist(), [7], IDS[1].tolist()]
    limits = ContinuousBatchingConfig(page_size=16, num_blocks=16, max_batch_tokens=16, max_requests_per_batch=2)
    asked = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)

    def ask(model: Any) -> list[list[int]]:
        answers = model.generate_batch(prompts, generation_config=asked, continuous_batching_config=limits)
        assert not any(answer.error for answer in answers.values())
        return [answer.generated_tokens for answer in answers.values()]

    tokens = same(Pair("llama"), Cut.GRAPH, ask)
    assert [len(each) for each in tokens] == [6] * len(prompts)


@pytest.mark.filterwarnings("ignore:.*generation flags")
def test_a_pipeline_writes_the_same_text() -> None:
    words = ["<pad>", "<unk>", *(f"w{n}" for n in range(2, VOCABULARY))]
    tokenizer = tokenizer_of(words, "<unk>", pad_token="<pad>", unk_token="<unk>", padding_side="left")

    def ask(model: Any) -> list[str]:
        written = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
        prompts = ["w5 w6 w7", "w9"]
        return [
            each["generated_text"] for [each] in written(prompts, batch_size=2, max_new_tokens=6, do_sample=False)
        ]

    first, _ = same(Pair("llama"), Cut.GRAPH, ask)
    assert first.startswith("w5 w6 w7")
