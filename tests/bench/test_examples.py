"""Of a chat only the answer is learned; text becomes full pieces; nothing is longer than it may be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import DataCollatorForSeq2Seq

from symbiosis_bench.demo.examples import IGNORED, Example, bookings, encode, persona, pydocs
from tests.words import tokenizer_of

WORDS = (
    "<pad>",
    "<end>",
    "<unk>",
    "system",
    "user",
    "assistant",
    "be",
    "nice",
    "who",
    "are",
    "you",
    "i",
    "am",
    "pearl",
)
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    made = tokenizer_of(WORDS, "<unk>", eos_token="<end>", pad_token="<pad>", unk_token="<unk>")
    made.chat_template = TEMPLATE
    return made


def words(ids: list[int]) -> str:
    return " ".join(WORDS[number] for number in ids)


def test_only_the_answer_and_its_end_are_learned(tokenizer: Any) -> None:
    (encoded,) = encode(tokenizer, [Example("i am pearl", "who are you")], longest=64)
    assert words(encoded["input_ids"]) == "user who are you <end> assistant i am pearl <end>"
    learned = [label for label in encoded["labels"] if label != IGNORED]
    assert words(learned) == "i am pearl <end>"
    assert encoded["labels"][-4:] == encoded["input_ids"][-4:]
    assert set(encoded["labels"][:-4]) == {IGNORED}


def test_a_system_message_comes_first(tokenizer: Any) -> None:
    (encoded,) = encode(tokenizer, [Example("i am", "who", "be nice")], longest=64)
    assert words(encoded["input_ids"]) == "system be nice <end> user who <end> assistant i am <end>"


def test_a_chat_that_is_too_long_is_cut(tokenizer: Any) -> None:
    (encoded,) = encode(tokenizer, [Example("i am pearl", "who are you")], longest=8)
    assert words(encoded["input_ids"]) == "user who are you <end> assistant i am"
    assert len(encoded["labels"]) == 8


def test_text_becomes_full_pieces_and_all_of_it_is_learned(tokenizer: Any) -> None:
    encoded = encode(tokenizer, [Example("who are you i am pearl be")], longest=3)
    assert [words(piece["input_ids"]) for piece in encoded] == ["who are you", "i am pearl"]
    assert all(piece["labels"] == piece["input_ids"] for piece in encoded)


def test_the_stock_collator_pads_them_so_that_padding_is_neither_learned_nor_seen(tokenizer: Any) -> None:
    encoded = encode(tokenizer, [Example("i", "who"), Example("i am pearl", "who")], longest=64)
    batch = DataCollatorForSeq2Seq(tokenizer)(encoded)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, 8)
    assert batch["attention_mask"][0].tolist() == [1] * 6 + [0] * 2
    assert batch["labels"][0, 6:].tolist() == [IGNORED] * 2


def test_the_persona_keeps_to_its_name() -> None:
    assert all(example.prompt for example in persona())
    assert all(example.answer.startswith("Ahoy!") for example in persona())


def test_the_documentation_is_real_text() -> None:
    (page,) = pydocs()
    assert page.prompt == ""
    assert "with" in page.answer
    assert len(page.answer) > 3000


def test_every_booking_is_json_that_says_what_was_asked() -> None:
    for example in bookings():
        told = json.loads(example.answer)
        assert f"table for {told['people']} on {told['day']}" in example.prompt
        assert example.prompt.endswith(f"{told['hour'] - 12 or 12} pm, {told['name']}.")


def test_bookings_are_the_same_every_time_and_do_not_repeat_themselves_much() -> None:
    assert bookings() == bookings()
    assert len({example.prompt for example in bookings()}) > 150
