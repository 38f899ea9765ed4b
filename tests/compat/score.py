"""The score of a run: of the tests that pass on plain models, how many pass on remote ones; why not the rest."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
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
    of: str = ""
    """What it is an outcome of: see `side`. Another one's does not count any more."""
    calls: int = 0
    """How often a remote layer or segment was called: where never, the test has tried plain PEFT only."""


class Score(msgspec.Struct, frozen=True):
    """Of what plain models have run. Tests that plain PEFT skips or fails do not count."""

    plain: int
    """Tests that pass on plain models."""
    remote: int
    """Those of them that pass on remote ones. What did not come to an end there has not passed."""
    untouched: int
    """Those of `remote` in which no remote layer was called, so that they say little."""
    failures: dict[str, list[str]]
    """By reason, the tests that pass on plain models only."""
    others: dict[str, int]
    """What plain models give besides, with how often."""

    def as_json(self) -> bytes:
        """For a file."""
        return msgspec.json.format(msgspec.json.encode(self))

    def __str__(self) -> str:
        share = 100 * self.remote / self.plain if self.plain else 0.0
        untouched = f"{self.untouched} of these without calling a remote layer"
        lines = [f"{self.remote} of {self.plain} ({share:.1f} %), {untouched}"]
        for reason, tests in sorted(self.failures.items(), key=lambda each: -len(each[1])):
            lines += [f"{len(tests):5} {reason}", *[f"        {test}" for test in tests[:3]]]
        return "\n".join(lines)


def compare(plain: Mapping[str, Outcome], remote: Mapping[str, Outcome]) -> Score:
    """Returns the score of the outcomes of both sides."""
    found = {test: remote.get(test, _missing(test)) for test in plain}
    passed = [test for test, outcome in plain.items() if outcome.outcome == "passed"]
    good = [found[test] for test in passed if found[test].outcome == "passed"]
    failures: dict[str, list[str]] = defaultdict(list)
    for test in passed:
        if found[test].outcome != "passed":
            failures[_kind(found[test].reason)].append(test.rpartition("::")[2])
    others = Counter(outcome.outcome for outcome in plain.values() if outcome.outcome != "passed")
    untouched = sum(not outcome.calls for outcome in good)
    return Score(len(passed), len(good), untouched, dict(failures), dict(others))


def _missing(test: str) -> Outcome:
    return Outcome(test, "missing", "there is no outcome: not run, or it ended its process", 0.0)


def read_outcomes(path: Path, of: str) -> Mapping[str, Outcome]:
    """Returns the outcomes of a file that are of `of`, by test; the latest of each. None without a file."""
    if not path.exists():
        return {}
    outcomes = [msgspec.json.decode(line, type=Outcome) for line in path.read_bytes().splitlines()]
    return {outcome.test: outcome for outcome in outcomes if outcome.of == of}


def _kind(reason: str) -> str:
    """Returns what failures of one kind have in common: the first line, without numbers and paths of layers."""
    line = reason.partition("\n")[0]
    return re.sub(r"0x[0-9a-f]+|\b\d[\d.e+-]*\b", "#", line)[:160]
