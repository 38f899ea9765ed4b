"""The glossary is in the order of its words, and has each of them once."""

from __future__ import annotations

import re
from pathlib import Path

GLOSSARY = Path(__file__).resolve().parents[2] / "docs" / "glossary.md"


def test_every_word_stands_once_and_in_order() -> None:
    words = re.findall(r"^\*\*(.+?)\*\*:", GLOSSARY.read_text(), re.MULTILINE)
    assert "address" in words
    assert words == sorted(set(words), key=str.lower)
