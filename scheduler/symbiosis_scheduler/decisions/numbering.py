"""The ops of all bases in one row of numbers, so that queues, plans and costs need not know of several bases.

A client counts the ops of its own base from 0 on, and after them the segments that the base was taught. Here they
get numbers that no other base has, in the order in which they come.
"""

from __future__ import annotations

from symbiosis_core.ids import BaseId, OpId

__all__ = ["Numbering"]


class Numbering:
    """Gives every op a number, for good."""

    def __init__(self, bases: int) -> None:
        self._numbers: list[list[OpId]] = [[] for _ in range(bases)]
        self._bases: list[BaseId] = []

    def __repr__(self) -> str:
        return f"<Numbering of {len(self._bases)} ops of {len(self._numbers)} bases>"

    def add(self, base: BaseId) -> OpId:
        """Returns the number of the op that comes next in a base."""
        number = OpId(len(self._bases))
        self._numbers[base].append(number)
        self._bases.append(base)
        return number

    def number(self, base: BaseId, op: int) -> OpId | None:
        """Returns the number of an op that a client of `base` names; None: there is none."""
        numbers = self._numbers[base]
        return numbers[op] if 0 <= op < len(numbers) else None

    def base(self, number: OpId) -> BaseId:
        """Returns whose op that is."""
        return self._bases[number]
