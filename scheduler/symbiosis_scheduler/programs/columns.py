"""Columns of a linear of which nothing else is read: computed alone.

A client that multiplies rows by a part of a head's weight asks for a linear and some of its columns. Of a
vocabulary in two parts, computing all of it for each would cost twice the product. The bits may be others than
those of the whole product, since the processor sums in blocks.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from symbiosis_core.segments import Fn, SegmentSpec
from symbiosis_scheduler.programs.steps import Layer, Weights

__all__ = ["Columns", "columns_in"]


class Columns(NamedTuple):
    """Some columns of a linear."""

    args: tuple[int, ...]
    """Of the linear."""
    layer: Layer
    """What computes these columns, and no others."""
    inside: int
    """The value of the whole linear, which is no longer made."""


def columns_in(spec: SegmentSpec, weights: Weights) -> dict[int, Columns]:
    """Returns the columns that can be computed alone, by the number of the value that they are."""
    nodes = dict(enumerate(spec.segment.nodes, spec.first_node))
    reads = Counter(arg for node in nodes.values() for arg in node.args)
    reads.update(spec.segment.outputs)
    found = {}
    for value, node in nodes.items():
        whole = nodes.get(node.args[0]) if node.fn is Fn.TAKE else None
        if whole is None or whole.fn is not Fn.LINEAR or reads[node.args[0]] > 1:
            continue
        if (layer := weights.layer(whole.op).columns(node.start, node.width)) is not None:
            found[value] = Columns(whole.args, layer, node.args[0])
    return found
