"""The report says what was measured, on what, against which target, and whether results were the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from symbiosis_bench.end_to_end.command import conclude
from symbiosis_bench.end_to_end.figures import KEYS, TARGETS, Figure, figure
from symbiosis_bench.end_to_end.report import Report, to_json
from symbiosis_bench.end_to_end.settings import QUICK, Settings, worker_environment
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.spread import spread
from tests.bench.samples import MACHINE

SETTINGS = Settings(
    model="smollm2",
    dtype="bfloat16",
    device="cpu",
    threads=2,
    cut="",
    capture=True,
    quick=False,
    only=(),
    scale=QUICK,
    environment={},
)
GOOD, BAD = Check("client 0", True, "alike"), Check("client 1", False, "[not] alike")


def report(**figures: Figure) -> Report:
    return Report(machine=MACHINE, settings=SETTINGS, figures=figures)


def told(made: Report) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(to_json(made))
    return decoded


def test_every_key_holds_its_spread_its_target_and_a_place_for_the_lent_cut() -> None:
    found = {key: figure(key, spread([1.0, 1.2, 1.1]), quick=False, checks=[GOOD]) for key in KEYS}
    decoded = told(report(**found))
    assert list(decoded) == ["machine", "settings", *KEYS]
    for key in KEYS:
        one = decoded[key]
        assert (one["median"], one["min"], one["max"], one["rounds"]) == (1.1, 1.0, 1.2, [1.0, 1.2, 1.1])
        assert (one["verified"], one["lent"]) == (True, None)
        assert (one["target"] is None) == (TARGETS[key] is None)
    assert told(report())["jobs_on_one_gpu"] is None


def test_the_machine_and_the_settings_are_told() -> None:
    decoded = told(report())
    assert {"symbiosis", "commit", "memory_bytes", "cpu_flags"} < set(decoded["machine"])
    assert decoded["settings"]["threads"] == 2
    assert decoded["settings"]["scale"]["skewed_tokens"] == list(QUICK.skewed_tokens)


@pytest.mark.parametrize(
    ("key", "value", "met"),
    [
        ("train_tax", 1.10, True),
        ("train_tax", 1.11, False),
        ("decode4_gain", 2.0, True),
        ("decode4_gain", 1.99, False),
        ("padding_saved", 0.5, None),
    ],
)
def test_a_target_is_met_by_the_median(key: str, value: float, met: bool | None) -> None:
    assert figure(key, spread([0.0, value, 9.0]), quick=False).met is met


def test_quick_figures_meet_nothing() -> None:
    assert figure("train_tax", spread([1.0, 1.0]), quick=True).met is None


def test_a_single_round_meets_nothing_and_says_that_it_is_one() -> None:
    """Its plain contender may have been slow by accident."""
    shown = io.StringIO()
    made = report(train_tax=figure("train_tax", spread([1.0]), quick=False, checks=[GOOD]))
    conclude(made, Console(file=shown, width=120), None)
    assert told(made)["train_tax"]["met"] is None
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert ["train_tax", "1", "one", "round", "<=", "1.10", "yes"] in lines  # the results were the same


def test_what_was_not_compared_is_not_verified() -> None:
    shown = io.StringIO()
    made = report(memory_share=figure("memory_share", spread([1.0, 1.1]), quick=False))
    conclude(made, Console(file=shown, width=120), None)
    assert told(made)["memory_share"]["verified"] is None
    assert "not compared" in shown.getvalue()


def test_a_mismatch_is_shown_written_and_ends_the_command(tmp_path: Path) -> None:
    shown = io.StringIO()
    made = report(decode_tax=figure("decode_tax", spread([1.0]), quick=False, checks=[GOOD, BAD]))
    with pytest.raises(BenchFailedError) as failed:
        conclude(made, Console(file=shown, width=120), tmp_path / "out.json")
    assert str(failed.value) == "decode_tax is not verified: client 1: [not] alike"
    assert json.loads((tmp_path / "out.json").read_text())["decode_tax"]["verified"] is False
    assert "NO" in shown.getvalue()


def test_a_figure_whose_results_agree_is_shown_with_its_target() -> None:
    shown = io.StringIO()
    made = report(
        decode_tax=figure(
            "decode_tax",
            spread([1.0, 1.5, 2.0]),
            quick=False,
            checks=[GOOD],
            beside={"plain_token_s": spread([0.05])},
            notes={"plain": "2 threads"},
        )
    )
    conclude(made, Console(file=shown, width=120), None)
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert ["decode_tax", "1.5", "1..2", "<=", "1.05", "no", "yes"] in lines
    assert "decode_tax: plain: 2 threads" in shown.getvalue()
    assert "plain_token_s 0.05" in shown.getvalue()


def test_all_processes_get_the_same_threads_and_no_wait_policy() -> None:
    """How OpenMP waits is left to the user, and to the daemon for itself."""
    environment = worker_environment({"HOME": "/root", "OMP_NUM_THREADS": "7"}, threads=2)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["HOME"] == "/root"
    assert not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(environment)
