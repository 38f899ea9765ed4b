"""Sets of names, written as one text: a list of seventy is ten lines to read, and not seventy."""

from __future__ import annotations

__all__ = ["names"]


def names(text: str) -> frozenset[str]:
    """Returns the names in a text, between whose words there are spaces."""
    return frozenset(text.split())
