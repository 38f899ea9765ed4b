"""Which experts become ops: those that a model takes one by one, and multiplies rows by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symbiosis_core.specs import Direction, OpSpec
from symbiosis_scheduler.frozen.catalogue import catalogue_of
from symbiosis_scheduler.frozen.stacks import MatrixUses
from tests.scheduler.tiny_models import lend, tiny


def experts(model: Any) -> dict[str, list[OpSpec]]:
    found: dict[str, list[OpSpec]] = {}
    for op in catalogue_of(model).ops:
        if op.expert >= 0:
            found.setdefault(op.members[0], []).append(op)
    return found


@pytest.mark.parametrize(
    ("architecture", "transposed"), [("mixtral", False), ("granitemoe", False), ("gpt_oss", True)]
)
def test_every_matrix_is_an_op_and_no_client_fetches_it(architecture: str, transposed: bool) -> None:
    model = tiny(architecture)
    stacks = {name: each for name, each in model.named_parameters() if each.ndim == 3}
    found = experts(model)
    assert found.keys() == stacks.keys()
    for name, ops in found.items():
        assert [op.expert for op in ops] == list(range(len(stacks[name])))
        shapes = {(op.width_in, op.width_out) if op.transposed else (op.width_out, op.width_in) for op in ops}
        assert shapes == {tuple(stacks[name].shape[1:])}
        assert {op.transposed for op in ops} == {transposed}
    assert not stacks.keys() & {tensor.name for tensor in catalogue_of(model).tensors}


def test_numbers_are_places_and_siblings_come_last() -> None:
    ops = catalogue_of(tiny("mixtral")).ops
    assert [op.id for op in ops] == list(range(len(ops)))
    kinds = [2 if len(op.members) > 1 else int(op.expert >= 0) for op in ops]
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}


def test_experts_that_are_multiplied_all_at_once_stay_local() -> None:
    model = tiny("llama4_text")
    stacks = {name for name, each in model.named_parameters() if each.ndim == 3}
    assert stacks
    assert not experts(model)
    assert stacks <= {tensor.name for tensor in catalogue_of(model).tensors}


def test_the_way_in_which_experts_are_computed_is_left_as_it_was() -> None:
    model = tiny("mixtral")
    before = model.get_experts_implementation()
    assert before[""] != "eager"
    catalogue_of(model)
    assert model.get_experts_implementation() == before


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_an_op_multiplies_by_its_matrix(architecture: str) -> None:
    model = tiny(architecture)
    layers = lend(model)
    for op in layers.spec.ops:
        if op.expert < 0:
            continue
        matrix = model.get_parameter(op.members[0])[op.expert]
        weight_DO = matrix if op.transposed else matrix.T
        x, dy = torch.randn(3, op.width_in), torch.randn(3, op.width_out)
        torch.testing.assert_close(layers.apply(op, Direction.FORWARD, x), x @ weight_DO)
        torch.testing.assert_close(layers.apply(op, Direction.BACKWARD, dy), dy @ weight_DO.T)


STACK = nn.Parameter(torch.ones(2, 3, 3))
ROWS = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("use", "agreed"),
    [
        (lambda: F.linear(ROWS, STACK[1]), {"stack": False}),
        (lambda: ROWS @ STACK[torch.tensor(0)], {"stack": True}),
        (lambda: (STACK.shape, STACK.dtype, F.linear(ROWS, STACK[0])), {"stack": False}),
        (lambda: (F.linear(ROWS, STACK[0]), ROWS @ STACK[0]), {}),
        (lambda: (F.linear(ROWS, STACK[0]), STACK[0] * 2), {}),
        (lambda: F.linear(ROWS, STACK[0].T), {}),
        (lambda: STACK[0] @ ROWS.T, {}),
        (lambda: torch.bmm(ROWS.expand(2, 4, 3), STACK), {}),
        (lambda: F.linear(ROWS, STACK[0:1][0]), {}),
        (lambda: F.linear(ROWS, STACK.sum(0)), {}),
        (lambda: None, {}),
    ],
)
def test_only_products_of_rows_with_single_matrices_agree(use: Any, agreed: dict[str, bool]) -> None:
    uses = MatrixUses({id(STACK): "stack"})
    with torch.no_grad(), uses:
        use()
    assert uses.agreed() == agreed


def test_a_tensor_that_is_no_stack_is_none_of_its_business() -> None:
    uses = MatrixUses({})
    with uses:
        doubled: Tensor = STACK * 2
    assert doubled.shape == STACK.shape
    assert uses.agreed() == {}
