"""A tokenizer whose tokens are words, so that a test can say what a text is to become."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

__all__ = ["tokenizer_of"]


def tokenizer_of(words: Iterable[str], unknown: str, **special: Any) -> PreTrainedTokenizerFast:
    """Returns the tokenizer of these words, each of which has its place among them for an id.

    `unknown` stands for all others; `special` is what transformers is told beside, such as `eos_token`.
    """
    model = Tokenizer(WordLevel({word: id for id, word in enumerate(words)}, unknown))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, **special)
