"""`symbiosis bench end-to-end`: light to look at, clear about what it cannot do; and once for real, quickly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAIN = [sys.executable, "-m", "symbiosis_core", "bench", "end-to-end"]
WITHIN_S = 120.0


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run([*MAIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_parent_imports_no_torch() -> None:
    """It would take processor time and memory that belong to the contenders."""
    heavy = "{'torch', 'transformers', 'peft'}"
    script = f"import sys, symbiosis_bench.command; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_key_that_does_not_exist_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "decode_tax,speed")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --only speed: the keys are train_tax, decode_tax,")


def test_a_place_that_cannot_be_written_is_told_before_minutes_are_spent(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", str(tmp_path / "no" / "out.json"))
    assert done.returncode == 2
    assert "choose another path" in done.stderr


def test_the_benchmark_runs(tmp_path: Path) -> None:
    """For real, on a tiny model: a daemon, plain PEFT and clients, compared; all is gone afterwards."""
    keys = ["train_tax", "decode_tax", "client_peak_activations", "padding_saved"]
    done = run(tmp_path, "--quick", "--rounds", "1", "--only", ",".join(keys), "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert [key for key in told if key in keys] == keys
    for key in keys:
        assert told[key]["verified"] is True
        assert told[key]["median"] > 0
        assert len(told[key]["rounds"]) == 1
    assert told["decode_tax"]["lent"]["median"] > 0
    assert told["decode_tax"]["beside"]["lent_token_s"]["median"] > 0
    assert told["decode_tax"]["beside"]["eager_token_s"]["median"] > 0
    assert told["client_peak_activations"]["lent"]["median"] > 0
    assert told["padding_saved"]["median"] < 1
    assert told["padding_saved"]["beside"]["computed_rows"]["median"] > 0
    assert told["client_peak_activations"]["beside"]["split_arena_bytes"]["median"] > 0
    assert not list(tmp_path.glob("symbiosis-*"))


@pytest.mark.long
def test_four_at_once_run(tmp_path: Path) -> None:
    keys = ["decode4_gain", "decode4_occupancy", "train4_gain"]
    done = run(tmp_path, "--quick", "--rounds", "1", "--only", ",".join(keys), "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert all(told[key]["verified"] is True for key in keys)
    gain, occupancy = told["decode4_gain"], told["decode4_occupancy"]
    assert gain["lent"]["median"] > 0
    assert told["train4_gain"]["lent"]["median"] > 0
    assert {f"{kind}_tokens_per_s" for kind in ("plain", "copied", "forked", "split", "unheld", "lent")} <= set(
        gain["beside"]
    )
    beside = {name: values["median"] for name, values in occupancy["beside"].items()}
    assert beside["split_token_s_over_unheld"] == beside["split_token_s"] / beside["unheld_token_s"]
    assert beside["unheld"] >= 1


@pytest.mark.long
def test_memory_is_weighed(tmp_path: Path) -> None:
    done = run(tmp_path, "--quick", "--rounds", "1", "--only", "memory_share", "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())["memory_share"]
    assert told["verified"] is True
    beside = {name: values["median"] for name, values in told["beside"].items()}
    for figure, kind in ((told, "split"), (told["lent"], "lent")):
        taken = beside[f"{kind}_daemon_bytes"] + beside[f"{kind}_clients_bytes"]
        assert figure["median"] == (taken - beside[f"{kind}_clients_on_tiny_bytes"]) / beside["base_bytes"]
        rested = beside[f"{kind}_rested_daemon_bytes"] + beside[f"{kind}_rested_clients_bytes"]
        rested -= beside[f"{kind}_rested_clients_on_tiny_bytes"]
        assert beside[f"{kind}_rested"] == rested / beside["base_bytes"]


@pytest.mark.long
def test_jobs_are_started_until_no_more_fit(tmp_path: Path) -> None:
    """As on a GPU, with a limit in place of its memory."""
    limit_mb = 1000
    only = ["--only", "jobs_on_one_gpu", "--limit-mb", str(limit_mb)]
    done = run(tmp_path, "--quick", "--rounds", "1", *only, "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    jobs, beside = told["jobs_on_one_gpu"], told["jobs_on_one_gpu"]["beside"]
    assert jobs["verified"] is True
    for way in ("shared", "dedicated"):
        number = beside[f"{way}_jobs"]["median"]
        assert 1 <= number <= told["settings"]["scale"]["jobs_most"]
        assert beside[f"{way}_bytes"]["max"] <= limit_mb * 1e6
        steps = number * told["settings"]["scale"]["jobs_steps"]
        assert beside[f"{way}_steps_per_s"]["median"] == steps / beside[f"{way}_s"]["median"]
    assert beside["shared_jobs"]["median"] < told["settings"]["scale"]["jobs_most"]  # the limit has been met
    assert jobs["notes"]["stopped"].startswith("shared: no room; dedicated: ")
    assert jobs["median"] == beside["shared_jobs"]["median"] / beside["dedicated_jobs"]["median"]


@pytest.mark.long
def test_jobs_for_none_of_which_there_is_room_are_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--quick", "--only", "jobs_on_one_gpu", "--limit-mb", "1")
    assert done.returncode == 1
    assert "not one split job fits" in done.stderr


def test_jobs_want_a_limit_where_there_is_no_gpu(tmp_path: Path) -> None:
    done = run(tmp_path, "--quick", "--only", "jobs_on_one_gpu")
    assert done.returncode == 2
    assert "--limit-mb" in done.stderr


def test_an_interrupted_run_is_tidied_up(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*MAIN, "--quick", "--only", "decode_tax"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as started:
        deadline = time.monotonic() + WITHIN_S
        while not list(tmp_path.glob("*/split-*.log")):  # the daemon is there, contenders are on their way
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=WITHIN_S)
    assert started.returncode == 130
    assert not list(tmp_path.glob("symbiosis-*"))  # torch keeps a cache of its own there
    assert str(tmp_path) not in command_lines()


def command_lines() -> str:
    """Returns those of all processes: every child's names a folder of the run."""
    told = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told.append(path.read_text(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return "\n".join(told)
