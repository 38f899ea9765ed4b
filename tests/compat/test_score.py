"""The score counts what plain models pass, and names what remote ones do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from tests.compat.score import Outcome, compare, read_outcomes

PLAIN = {"a": "passed", "b": "passed", "c": "passed", "d": "failed", "e": "skipped", "f": "passed"}
REMOTE = {"a": "passed", "b": "failed", "c": "failed", "d": "passed", "e": "skipped"}


def written(path: Path, outcomes: dict[str, str], of: str = "now") -> Path:
    lines = [
        Outcome(f"test.py::Tests::{test}", outcome, f"Error: layer {number}\nmore", 0.1, of, number)
        for number, (test, outcome) in enumerate(outcomes.items())
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def outcomes(path: Path) -> Mapping[str, Outcome]:
    return read_outcomes(path, "now")


def test_tests_count_that_plain_models_pass_and_one_that_did_not_end_has_not_passed(tmp_path: Path) -> None:
    plain, remote = written(tmp_path / "plain", PLAIN), written(tmp_path / "remote", REMOTE)
    score = compare(outcomes(plain), outcomes(remote))
    assert (score.remote, score.plain, score.untouched) == (1, 4, 1)
    assert score.others == {"failed": 1, "skipped": 1}
    first = "1 of 4 (25.0 %), 1 of these without calling a remote layer\n"
    assert str(score).startswith(f"{first}    2 Error: layer #\n        b\n")
    missing = "there is no outcome: not run, or it ended its process"
    assert msgspec.json.decode(score.as_json())["failures"] == {"Error: layer #": ["b", "c"], missing: ["f"]}


def test_the_latest_outcome_of_a_test_counts(tmp_path: Path) -> None:
    remote = written(tmp_path / "remote", REMOTE)
    remote.write_bytes(remote.read_bytes() + written(tmp_path / "again", {"b": "passed"}).read_bytes())
    assert compare(outcomes(written(tmp_path / "plain", PLAIN)), outcomes(remote)).remote == 2


def test_outcomes_of_something_else_do_not_count(tmp_path: Path) -> None:
    assert outcomes(written(tmp_path / "remote", REMOTE, of="an older commit")) == {}


def test_before_a_run_there_is_nothing_to_count(tmp_path: Path) -> None:
    nothing = compare(outcomes(tmp_path / "none"), outcomes(tmp_path / "none"))
    assert str(nothing).startswith("0 of 0 (0.0 %)")
