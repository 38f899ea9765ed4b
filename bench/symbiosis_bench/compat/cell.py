"""One cell of the table, as it is told between processes and in the JSON. Imports no torch."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Cell", "Outcome", "Step"]


class Step(StrEnum):
    """What is compared, in order."""

    ADAPT = "adapt"
    LOSS = "loss"
    GRADIENTS = "gradients"
    LOGITS = "logits"
    TOKENS = "tokens"
    RELOAD = "reload"
    MERGE = "merge"


class Outcome(StrEnum):
    """What became of a cell, or of a step."""

    PASS = "pass"
    FAIL = "fail"
    LENT = "needs lent"
    """It reads or changes the base's own weights, which this daemon does not lend."""
    NOT_PLAIN = "n/a"
    """Plain PEFT fails itself."""


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One family under one method and one requested cut."""

    family: str = ""
    method: str
    cut: str
    outcome: Outcome
    served: str = ""
    """The cut that served it."""
    trips: float | None = None
    """Per block, in a forward without labels."""
    reason: str = ""
    """Begins with the step that it is about."""
    steps: dict[Step, Outcome] = {}
    """Of those that were reached: how those went that did not pass."""
    equal: int = 0
    """How many steps passed."""
    left_out: dict[Step, str] = {}
    """Steps that plain PEFT fails itself after it has trained, which are not compared; with its reason."""
    also: str = ""
    """What the configuration names besides, since plain PEFT fails without it: see `Method.otherwise`."""
    by_floor: int = 0
    """Gradients that pass by the floor only: see `comparison`."""
    seconds: float = 0.0
    date: str = ""
    """When its family was begun in that run: UTC, ISO 8601."""
    commit: str = ""
    """See `Machine.commit`."""
