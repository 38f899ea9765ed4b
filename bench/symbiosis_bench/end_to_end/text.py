"""Token ids to train on and to continue: real English, or seeded ids where the base has no tokenizer.

The English is the language reference that every Python carries.
"""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import torch
from transformers import AutoTokenizer

from symbiosis_bench.end_to_end.messages import Shape

__all__ = ["Text"]

_TOPICS: Final = 8
"""The longest ones of the reference."""
_RANDOM_TOKENS: Final = 20_000
_SPECIAL: Final = 3
"""The first ids of our random models are special tokens."""


class Text:
    """An endless text. Each client reads on from a place of its own."""

    def __init__(self, folder: str, vocabulary: int, client: int) -> None:
        self._ids = _words(folder) if (Path(folder) / "tokenizer.json").exists() else _noise(vocabulary)
        self._begin = client * (len(self._ids) // 16)

    def __repr__(self) -> str:
        return f"<Text of {len(self._ids)} tokens from {self._begin}>"

    def prompt(self, tokens: int) -> torch.Tensor:
        """Returns one sequence, of shape (1, tokens)."""
        return self._piece(0, tokens)[None]

    def batch(self, step: int, shape: Shape) -> torch.Tensor:
        """Returns the batch of a step; the same step has the same batch."""
        return self._piece(step * shape.rows, shape.rows).view(shape.batch, shape.tokens)

    def _piece(self, begin: int, tokens: int) -> torch.Tensor:
        return self._ids[(self._begin + begin + torch.arange(tokens)) % len(self._ids)]


def _words(folder: str) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "\n\n".join(sorted(topics.values(), key=len)[-_TOPICS:])
    ids: torch.Tensor = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    return ids


def _noise(vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_SPECIAL, vocabulary, (_RANDOM_TOKENS,), generator=generator)
