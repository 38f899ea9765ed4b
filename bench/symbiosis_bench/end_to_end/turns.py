"""Who comes first in which round. Pure: the same seed gives the same order again.

Who comes first finds another machine than who comes last: caches, clocks and neighbours have moved on. With many
rounds that cancels out if neither always comes first; with one round nothing does, but at least it is not always
the same one who is favoured.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["said", "turns"]

T = TypeVar("T")


def turns(contenders: Sequence[T], rounds: int, seed: int, what: str) -> list[list[T]]:
    """Returns the order of every round of a measurement.

    The first is drawn, the second is the first backwards, the third is drawn anew: in two rounds each of two
    contenders has come before the other once.
    """
    drawing = random.Random(f"{seed} {what}")
    orders: list[list[T]] = []
    for number in range(rounds):
        orders.append(orders[-1][::-1] if number % 2 else drawing.sample(contenders, len(contenders)))
    return orders


def said(orders: Sequence[Sequence[object]]) -> str:
    """Returns the orders in words, for the notes of a figure."""
    return "; ".join(", ".join(map(str, order)) for order in orders)
