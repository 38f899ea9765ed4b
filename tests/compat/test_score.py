"""The score counts what plain models pass, and names what remote ones do not."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.compat.score import Outcome, compare

PLAIN = {"a": "passed", "b": "passed", "c": "passed", "d": "failed", "e": "skipped", "f": "passed"}
REMOTE = {"a": "passed", "b": "failed", "c": "failed", "d": "passed", "e": "skipped"}


def written(path: Path, outcomes: dict[str, str]) -> Path:
    lines = [
        Outcome(f"test.py::Tests::{test}", outcome, f"Error: layer {number}\nmore", 0.1)
        for number, (test, outcome) in enumerate(outcomes.items())
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def test_tests_count_that_plain_models_pass_and_remote_ones_have_run(tmp_path: Path) -> None:
    score = compare(written(tmp_path / "plain", PLAIN), written(tmp_path / "remote", REMOTE))
    assert (score.remote, score.plain) == (1, 3)
    assert score.others == {"failed": 1, "skipped": 1}
    assert str(score).startswith("1 of 3 (33.3 %)\n    2 Error: layer #\n        b\n")
    assert msgspec.json.decode(score.as_json())["failures"] == {"Error: layer #": ["b", "c"]}


def test_the_latest_outcome_of_a_test_counts(tmp_path: Path) -> None:
    remote = written(tmp_path / "remote", REMOTE)
    remote.write_bytes(remote.read_bytes() + written(tmp_path / "again", {"b": "passed"}).read_bytes())
    assert compare(written(tmp_path / "plain", PLAIN), remote).remote == 2


def test_before_a_run_there_is_nothing_to_count(tmp_path: Path) -> None:
    assert str(compare(tmp_path / "none", tmp_path / "none")) == "0 of 0 (0.0 %)"
