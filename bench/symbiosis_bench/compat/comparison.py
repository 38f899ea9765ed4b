"""What a cell is: a remote observation beside the plain one, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import torch

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.compat.observation import NEEDED, Observation
from symbiosis_core.errors import UsageError

__all__ = ["GRADIENT_TOLERANCE", "LOSS_TOLERANCE", "compare", "gradients_off", "told", "unsteady"]

LOSS_TOLERANCE: Final = 1e-5
"""Relative."""
GRADIENT_TOLERANCE: Final = 1e-4
"""Of the largest entry of a parameter's gradient, and of the largest logit."""
_FLOOR: Final = 1e-6
"""What is smaller than this is compared as if it were not."""
_CANCELLED: Final = 1e-4
"""A gradient smaller than this part of the method's largest is measured by that part: so the tolerance is never
finer than a tenth of what float32 resolves. The bias of keys has such: softmax cancels it, rounding is left."""
_LENT: Final = "its values are in the daemon"
"""What the refusal of a method that reads the base's weights says."""
_SHOWN: Final = 160


def compare(family: str, method: str, cut: str, plain: Observation, remote: Observation | None) -> Cell:
    """Returns the cell. `remote` may be missing where plain PEFT has failed."""
    named: dict[str, Any] = {"family": family, "method": method, "cut": cut}
    lacking = next((step for step in NEEDED if step in plain.errors), None)
    if lacking is not None:
        return Cell(**named, outcome=Outcome.NOT_PLAIN, reason=f"{lacking}: {told(plain.errors[lacking])}")
    assert remote is not None  # plain PEFT has not failed
    reached = [step for step in Step if step in remote.values or step in remote.errors]
    judged = {step: _judge(step, plain, remote) for step in reached if step not in plain.errors}
    steps = {step: said for step, (said, _) in judged.items() if said is not Outcome.PASS}
    named |= {
        "steps": steps,
        "equal": len(judged) - len(steps),
        "left_out": {step: told(error) for step, error in plain.errors.items()},
        "by_floor": _by_floor(plain.values[Step.GRADIENTS], remote.values.get(Step.GRADIENTS, {})),
    }
    if remote.trips is not None:
        named |= {"served": remote.trips.cut, "trips": remote.trips.per_block}
    for outcome in (Outcome.FAIL, Outcome.LENT):
        found = [step for step, said in steps.items() if said is outcome]
        if found:
            return Cell(**named, outcome=outcome, reason=f"{found[0]}: {judged[found[0]][1]}")
    return Cell(**named, outcome=Outcome.PASS)


def unsteady(cell: Cell, plain: Observation, shaken: Iterable[Observation]) -> Cell:
    """Returns a failed cell whose reason also says how far plain PEFT is at most from itself on shaken bases.

    It stays one that has failed. But where rounding alone does as much, nothing can be equal to the tolerance.
    """
    step = next((each for each in Step if cell.steps.get(each) is Outcome.FAIL), None)
    if step not in (Step.LOSS, Step.GRADIENTS, Step.LOGITS, Step.RELOAD, Step.MERGE):
        return cell
    if step not in plain.values:
        return cell
    moved = [_off(step, plain.values[step], each.values[step]) for each in shaken if step in each.values]
    if not moved:
        return cell
    off = max(moved)
    return msgspec.structs.replace(
        cell, reason=f"{cell.reason}; the last bit of the weights moves plain PEFT by {off:.0e}"
    )


def told(error: Exception) -> str:
    """Returns an exception as one short line."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def _judge(step: Step, plain: Observation, remote: Observation) -> tuple[Outcome, str]:
    error = remote.errors.get(step)
    if error is not None:
        return (Outcome.LENT if _needs_values(error) else Outcome.FAIL), told(error)
    difference = _differs(step, plain.values[step], remote.values[step])
    return (Outcome.FAIL, difference) if difference else (Outcome.PASS, "")


def _needs_values(error: BaseException | None) -> bool:
    """Whether a refused read of the base's weights is behind it, or behind what it was raised from."""
    while error is not None:
        if isinstance(error, UsageError) and _LENT in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _differs(step: Step, expected: Any, found: Any) -> str:
    """Returns how `found` differs by more than the tolerance; empty: not."""
    if step is Step.ADAPT:
        return "" if expected == found else f"{found} trainable parameters and all, not {expected}"
    if step is Step.TOKENS:
        return "" if torch.equal(expected, found) else "other tokens"
    if step is Step.GRADIENTS:
        return _gradients_differ(expected, found)
    if step is not Step.LOSS and expected.shape != found.shape:
        return f"shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    off = _off(step, expected, found)
    return "" if off <= (LOSS_TOLERANCE if step is Step.LOSS else GRADIENT_TOLERANCE) else f"off by {off:.0e}"


def _gradients_differ(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str:
    if expected.keys() != found.keys():
        lone = sorted(expected.keys() ^ found.keys())
        return f"{len(lone)} parameters have a gradient on one side only, such as {lone[0]}"
    if not expected:
        return "none"
    offs = gradients_off(expected, found)
    far = {name: off for name, off in offs.items() if not off <= GRADIENT_TOLERANCE}
    return (
        ""
        if not far
        else f"{len(far)} of {len(offs)} off by {next(iter(far.values())):.0e}, such as {next(iter(far))}"
    )


def _off(step: Step, expected: Any, found: Any) -> float:
    """Returns by how much `found` is off, on the scale of the step's tolerance."""
    if step is Step.LOSS:
        return float(abs(found - expected) / max(abs(expected), _FLOOR))
    if step is Step.GRADIENTS:
        return max(gradients_off(expected, found).values())
    return _far(expected, found)


def gradients_off(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> dict[str, float]:
    """Returns by how much each gradient is off, on the scale of the tolerance; with the floor."""
    least = _CANCELLED * max(_largest(each) for each in expected.values())
    return {name: _far(each, found[name], least) for name, each in expected.items()}


def _by_floor(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> int:
    """Returns how many gradients are within the tolerance by a floor, and not by their own largest entry."""
    if expected.keys() != found.keys() or not expected:
        return 0
    offs = gradients_off(expected, found)
    return sum(
        off <= GRADIENT_TOLERANCE and _largest(found[name] - each) > GRADIENT_TOLERANCE * _largest(each)
        for (name, each), off in zip(expected.items(), offs.values(), strict=True)
    )


def _far(expected: torch.Tensor, found: torch.Tensor, least: float = _FLOOR) -> float:
    return _largest(found - expected) / max(_largest(expected), least, _FLOOR)


def _largest(x: torch.Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0
