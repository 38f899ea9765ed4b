"""The score of a run: of the tests that pass on plain models, how many pass on remote ones; why not the rest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["Outcome", "Score", "compare", "read_outcomes"]


class Outcome(msgspec.Struct, frozen=True):
    """How one test went."""

    test: str
    outcome: str
    reason: str
    seconds: float


class Score(msgspec.Struct, frozen=True):
    """Of what both sides have run. Tests that plain PEFT skips or fails do not count."""

    plain: int
    """Tests that pass on plain models."""
    remote: int
    """Those of them that pass on remote ones."""
    failures: dict[str, list[str]]
    """By reason, the tests that pass on plain models only."""
    others: dict[str, int]
    """What plain models give besides, with how often."""

    def as_json(self) -> bytes:
        """For a file."""
        return msgspec.json.format(msgspec.json.encode(self))

    def __str__(self) -> str:
        share = 100 * self.remote / self.plain if self.plain else 0.0
        lines = [f"{self.remote} of {self.plain} ({share:.1f} %)"]
        for reason, tests in sorted(self.failures.items(), key=lambda each: -len(each[1])):
            lines += [f"{len(tests):5} {reason}", *[f"        {test}" for test in tests[:3]]]
        return "\n".join(lines)


def compare(plain: Path, remote: Path) -> Score:
    """Returns the score of two files of outcomes."""
    expected, found = read_outcomes(plain), read_outcomes(remote)
    both = [test for test in expected if test in found]
    passed = [test for test in both if expected[test].outcome == "passed"]
    failures: dict[str, list[str]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    for test in both:
        if expected[test].outcome != "passed":
            others[expected[test].outcome] += 1
        elif found[test].outcome != "passed":
            failures[_kind(found[test].reason)].append(test.rpartition("::")[2])
    return Score(
        len(passed), sum(found[test].outcome == "passed" for test in passed), dict(failures), dict(others)
    )


def read_outcomes(path: Path) -> Mapping[str, Outcome]:
    """Returns the outcomes of a file, by test; the latest of each. Empty where there is no file."""
    if not path.exists():
        return {}
    outcomes = [msgspec.json.decode(line, type=Outcome) for line in path.read_bytes().splitlines()]
    return {outcome.test: outcome for outcome in outcomes}


def _kind(reason: str) -> str:
    """Returns what failures of one kind have in common: the first line, without numbers and paths of layers."""
    line = reason.partition("\n")[0]
    return re.sub(r"0x[0-9a-f]+|\b\d[\d.e+-]*\b", "#", line)[:160]
