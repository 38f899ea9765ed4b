"""What computes each value of a segment and carries its gradient back: mostly one function of torch for a node.

Where torch, or this daemon, has one function for a chain of nodes, the values inside of the chain are never made.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from symbiosis_core.segments import Node, SegmentSpec
from symbiosis_scheduler.programs.columns import columns_in
from symbiosis_scheduler.programs.losses import cross_entropy, cross_entropy_pull, losses_in
from symbiosis_scheduler.programs.norms import norms_in, rms_norm, rms_norm_pull
from symbiosis_scheduler.programs.slopes import HeadLoss, head_losses_in
from symbiosis_scheduler.programs.steps import (
    Pull,
    Reads,
    Step,
    Weights,
    linear_pull,
    linear_step,
    pull_of,
    reads_of,
    step_of,
)

__all__ = ["Function", "functions_of"]


class Function(NamedTuple):
    """What makes one value, and carries its gradient back."""

    args: tuple[int, ...]
    step: Step
    pull: Pull | None
    """None where some columns are taken: see `Gradients.add_columns`."""
    reads: Reads
    head: HeadLoss | None = None
    """Set for a loss whose gradient reads slopes, after `args`; a forward can make both at once."""
    backward_only: bool = False
    """Whether no forward makes it by itself: slopes."""
    multiplies: bool = False
    """Whether it costs the product of a matrix, though its node is none: columns that are computed alone."""


def functions_of(spec: SegmentSpec, weights: Weights, made: Collection[int]) -> dict[int, Function]:
    """Returns the functions by the number of their value, in order; those that are `made` have none."""
    norms, heads, columns = norms_in(spec), head_losses_in(spec, weights), columns_in(spec, weights)
    losses = {value: loss for value, loss in losses_in(spec).items() if value not in heads}
    slopes = {head.slope: head for head in heads.values()}
    left_out = set(made).union(*[norm.inside for norm in norms.values()])
    left_out.update(*[loss.inside for loss in losses.values()], *[head.inside for head in heads.values()])
    left_out.update(part.inside for part in columns.values())
    functions = {}
    for value, node in enumerate(spec.segment.nodes, spec.first_node):
        if (norm := norms.get(value)) is not None:
            pull = rms_norm_pull(norm.epsilon)
            functions[value] = Function((norm.of,), rms_norm(norm.epsilon), pull, Reads(itself=True))
        elif (head := heads.get(value)) is not None:
            functions[value] = Function(head.args, head.losses, head.pull, Reads(others=True), head)
        elif (head := slopes.get(value)) is not None:
            functions[value] = Function(head.args, head.slopes, None, Reads(), backward_only=True)
        elif (loss := losses.get(value)) is not None:
            reads = Reads(itself=True, others=True)
            functions[value] = Function(loss.args, cross_entropy(loss), cross_entropy_pull(loss), reads)
        elif (part := columns.get(value)) is not None:
            step, pull = linear_step(part.layer), linear_pull(part.layer)
            functions[value] = Function(part.args, step, pull, Reads(), multiplies=True)
        elif value not in left_out:
            functions[value] = _of_node(node, spec, weights)
    return functions


def _of_node(node: Node, spec: SegmentSpec, weights: Weights) -> Function:
    pull = pull_of(node, weights, spec.values[node.args[0]].width)
    return Function(node.args, step_of(node, weights), pull, reads_of(node))
