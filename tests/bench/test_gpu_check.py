"""The check for a GPU machine runs without one as far as saying what is missing, and its parts over a fake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symbiosis_bench.gpu_check.__main__ import BUDGET_S, end_to_end_found, steps
from symbiosis_bench.gpu_check.steps import Step, run

HOUSE = Path(__file__).resolve().parents[2]
DOOR = HOUSE / "bench" / "gpu_check.sh"


def check(*options: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": python}
    return subprocess.run([DOOR, *options], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so_in_words_and_in_a_dated_file(tmp_path: Path) -> None:
    ended = check("--json", str(tmp_path / "report.json"))
    assert ended.returncode == 3, ended.stderr
    assert "cannot run: a GPU: " in ended.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["missing"][0].startswith("a GPU: ")
    assert report["date"].startswith("20")
    assert "steps" not in report


def test_on_a_bare_machine_it_names_the_packages_that_are_missing(tmp_path: Path) -> None:
    """An interpreter without site-packages: the standard library is enough to say so."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    ended = check(python=str(bare))
    assert ended.returncode == 3, ended.stderr
    for name in ("msgspec", "pyzmq", "torch", "uvloop", "symbiosis-llm", "--wheels"):
        assert name in ended.stdout


def test_it_says_which_wheels_to_bring_and_leaves_torch_to_the_machine() -> None:
    told = check("--wheels", "--python", "3.12").stdout
    assert "--python-version 3.12" in told
    words = told.split()
    assert {"msgspec", "pyzmq", "transformers", "huggingface-hub"} <= {word.split("==")[0] for word in words}
    assert "torch" not in {word.split("==")[0] for word in words}


def test_a_step_passes_fails_or_hangs_and_never_takes_the_rest_with_it() -> None:
    good = run(Step("good", ["-c", "print('noise'); print('{\"p50_us\": 3}')"], 60), 60)
    assert (good.status, good.figures) == ("passed", {"p50_us": 3})
    told = run(Step("told", ["-c", 'print(\'{"skipped": "no MPS"}\')'], 60), 60)
    assert told.status == "skipped"
    bad = run(Step("bad", ["-c", "raise SystemExit('the handle does not open')"], 60), 60)
    assert (bad.status, bad.figures.strip()) == ("failed", "the handle does not open")
    hung = run(Step("hung", ["-c", "import time; time.sleep(600)"], 1), 1)
    assert hung.status == "failed"
    assert "it was ended after" in hung.figures


@pytest.mark.parametrize("fake", [None, Path("device")])
def test_every_step_has_a_share_of_the_eight_minutes(fake: Path | None, tmp_path: Path) -> None:
    """So none is left out because another hangs, and what one saves the later ones may have."""
    found = steps(fake, tmp_path)
    assert sum(step.limit_s for step in found) <= BUDGET_S == 480
    assert len({step.name for step in found}) == len(found)


def test_the_benchmark_of_a_gpu_knows_the_options_that_it_is_given(tmp_path: Path) -> None:
    """As far as a wrong one says so: `--help` comes first, but not before what does not exist."""
    *_, step = steps(None, tmp_path)
    assert step.name == "end-to-end" and "--no-lent" in step.arguments
    ended = subprocess.run(
        [sys.executable, *step.arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("written", "key"), [(b'{"a": 1}', "end_to_end"), (b'{"a"', "end_to_end_unreadable")])
def test_figures_that_were_cut_off_cost_nobody_the_report(tmp_path: Path, written: bytes, key: str) -> None:
    file = tmp_path / "end-to-end.json"
    assert end_to_end_found(file) == {}
    file.write_bytes(written)
    assert list(end_to_end_found(file)) == [key]


@pytest.mark.long
def test_the_share_of_a_client_on_the_host_is_tried_on_a_cpu(tmp_path: Path) -> None:
    """It compares for real: a model through a daemon, and by itself; on a GPU machine the daemon's is there."""
    (tmp_path / "device").mkdir()
    (part,) = (step for step in steps(tmp_path / "device", tmp_path) if step.name == "a client on the CPU")
    outcome = run(part, 240)
    assert outcome.status == "passed", outcome.figures
    assert outcome.figures["largest_relative_difference"] < 1e-4


@pytest.mark.long
def test_every_part_that_needs_no_real_device_passes_over_the_fake(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    ended = check("--fake", str(tmp_path / "device"), "--json", str(tmp_path / "report.json"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fake"] is True
    assert [step["status"] for step in report["steps"]] == ["passed"] * 7
