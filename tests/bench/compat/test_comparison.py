"""What differs from plain PEFT is told, with its step and by how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.compat.comparison import compare, unsteady
from symbiosis_bench.compat.observation import Observation, Trips
from symbiosis_core.errors import UsageError


def observed(**changes: Any) -> Observation:
    values: dict[Step, Any] = {
        Step.ADAPT: (8, 100),
        Step.LOSS: 2.0,
        Step.GRADIENTS: {"a": torch.tensor([1.0, -2.0])},
        Step.LOGITS: torch.tensor([3.0, 4.0]),
        Step.TOKENS: torch.tensor([1, 2]),
        Step.RELOAD: torch.tensor([3.0, 4.0]),
        Step.MERGE: torch.tensor([3.0, 4.0]),
    }
    errors: dict[Step, Exception] = {}
    for name, change in changes.items():
        step = Step(name)
        if isinstance(change, Exception):
            del values[step]
            errors[step] = change
        else:
            values[step] = change
    return Observation(values, errors, Trips("graph", 2.0))


def judged(plain: Observation, remote: Observation | None) -> Cell:
    return compare("llama", "lora", "graph", plain, remote)


def test_what_is_equal_within_the_tolerance_passes() -> None:
    near = observed(loss=2.0 + 1e-5, gradients={"a": torch.tensor([1.0 + 1e-4, -2.0])})
    cell = judged(observed(), near)
    assert (cell.outcome, cell.served, cell.trips) == (Outcome.PASS, "graph", 2.0)
    assert (cell.steps, cell.equal, cell.left_out, cell.by_floor) == ({}, len(Step), {}, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapt": (9, 100)}, "adapt: (9, 100) trainable parameters and all, not (8, 100)"),
        ({"loss": 2.0 + 1e-4}, "loss: off by 5e-05"),
        ({"loss": float("nan")}, "loss: off by nan"),
        ({"gradients": {"a": torch.tensor([1.001, -2.0])}}, "gradients: 1 of 1 off by 5e-04, such as a"),
        ({"gradients": {"a": torch.tensor([1.0, float("nan")])}}, "gradients: 1 of 1 off by nan, such as a"),
        ({"gradients": {}}, "gradients: 1 parameters have a gradient on one side only, such as a"),
        ({"logits": torch.tensor([3.0])}, "logits: shape (1,), not (2,)"),
        ({"tokens": torch.tensor([1, 3])}, "tokens: other tokens"),
        ({"reload": torch.tensor([3.0, 4.1])}, "reload: off by 2e-02"),
        ({"merge": ValueError("no\n  way")}, "merge: ValueError: no way"),
    ],
)
def test_what_differs_fails_with_its_step(changes: dict[str, Any], reason: str) -> None:
    cell = judged(observed(), observed(**changes))
    assert (cell.outcome, cell.reason) == (Outcome.FAIL, reason)


@pytest.mark.parametrize(("off", "outcome"), [(9e-9, Outcome.PASS), (2e-8, Outcome.FAIL)])
def test_what_cancels_is_measured_by_what_does_not(off: float, outcome: Outcome) -> None:
    """Float32 resolves 1.2e-7 of the largest gradient."""
    plain = observed(gradients={"a": torch.tensor([1.0]), "key bias": torch.tensor([1e-9])})
    remote = observed(gradients={"a": torch.tensor([1.0]), "key bias": torch.tensor([1e-9 + off])})
    cell = judged(plain, remote)
    assert cell.outcome is outcome
    assert cell.by_floor == (outcome is Outcome.PASS)  # and that it was is told


def test_a_gradient_without_entries_is_equal_to_itself() -> None:
    """OSF has such where a layer has one output only."""
    empty = observed(gradients={"a": torch.ones(1), "b": torch.empty(0, 4)})
    assert judged(empty, empty).outcome is Outcome.PASS


def test_a_method_without_gradients_proves_nothing() -> None:
    nothing = observed(gradients={})
    assert judged(nothing, nothing).reason == "gradients: none"


def test_a_refused_read_of_the_weights_is_told_apart() -> None:
    refused = UsageError("q_proj.weight: torch's add() is not possible, for its values are in the daemon and more")
    wrapped = RuntimeError("merging failed")
    wrapped.__cause__ = refused
    for error in (refused, wrapped):
        assert judged(observed(), observed(merge=error)).outcome is Outcome.LENT
    assert judged(observed(), observed(merge=error, tokens=torch.tensor([0, 0]))).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("step", "plain", "remote", "shaken", "off"),
    [
        ("loss", 2.0, 2.1, 2.2, "1e-01"),
        ("logits", torch.tensor([4.0]), torch.tensor([5.0]), torch.tensor([4.4]), "1e-01"),
        ("gradients", {"a": torch.ones(1)}, {"a": torch.ones(1) * 2}, {"a": torch.ones(1) * 1.5}, "5e-01"),
    ],
)
def test_a_cell_that_fails_says_how_far_plain_peft_is_from_itself(
    step: str, plain: Any, remote: Any, shaken: Any, off: str
) -> None:
    failed = judged(observed(**{step: plain}), observed(**{step: remote}))
    told = unsteady(
        failed, observed(**{step: plain}), [observed(**{step: each}) for each in (plain, shaken, plain)]
    )
    assert told.outcome is Outcome.FAIL
    assert told.reason == f"{failed.reason}; the last bit of the weights moves plain PEFT by {off}"


def test_what_no_rounding_explains_is_left_as_it_is() -> None:
    failed = judged(observed(), observed(tokens=torch.tensor([1, 3])))
    assert unsteady(failed, observed(), [observed(tokens=torch.tensor([1, 3]))]) == failed


def test_where_plain_peft_fails_there_is_nothing_to_compare() -> None:
    cell = judged(observed(loss=ValueError("no such family")), None)
    assert (cell.outcome, cell.reason) == (Outcome.NOT_PLAIN, "loss: ValueError: no such family")
    merged = judged(observed(merge=ValueError("cannot merge")), observed())
    assert (merged.outcome, merged.steps, merged.equal) == (Outcome.PASS, {}, len(Step) - 1)
    assert merged.left_out == {Step.MERGE: "ValueError: cannot merge"}
