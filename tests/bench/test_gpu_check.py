"""The check for a GPU machine runs without one as far as saying what is missing, and its parts over a fake."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from symbiosis_bench.gpu_check.__main__ import BUDGET_S, DEVICE, end_to_end_found, steps
from symbiosis_bench.gpu_check.parts.parity import wish
from symbiosis_bench.gpu_check.steps import Step, run
from symbiosis_transports.cuda_ipc import WISH_VARIABLE, CudaIpc
from symbiosis_transports.fake_cuda import FakeDevices
from symbiosis_transports.negotiate import choose
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM

HOUSE = Path(__file__).resolve().parents[2]
DOOR = HOUSE / "bench" / "gpu_check.sh"


def check(*options: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": python}
    return subprocess.run([DOOR, *options], env=environment, capture_output=True, text=True, check=False)


def bare_python(folder: Path) -> Path:
    """An interpreter without site-packages."""
    bare = folder / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    return bare


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so_in_words_and_in_a_dated_file(tmp_path: Path) -> None:
    ended = check("--json", str(tmp_path / "report.json"))
    assert ended.returncode == 3, ended.stderr
    assert "cannot run: a GPU: " in ended.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["missing"][0].startswith("a GPU: ")
    assert report["date"].startswith("20")
    assert report["steps"] == []
    assert not report["complete"]


def test_on_a_bare_machine_it_names_the_packages_that_are_missing(tmp_path: Path) -> None:
    """The standard library is enough to say so."""
    ended = check(python=str(bare_python(tmp_path)))
    assert ended.returncode == 3, ended.stderr
    for name in ("msgspec", "pyzmq", "torch", "uvloop", "symbiosis-llm", "--wheels"):
        assert name in ended.stdout


def test_it_says_which_wheels_to_bring_and_leaves_torch_to_the_machine() -> None:
    told = check("--wheels", "--python", "3.12").stdout
    assert "--python-version 3.12" in told
    pinned = dict(word.split("==") for word in told.split() if "==" in word)
    assert {"msgspec", "pyzmq", "transformers", "huggingface-hub"} <= set(pinned)
    assert "torch" not in told.split()
    assert pinned["transformers"] == version("transformers")
    assert not {"colorama", "cffi"} & set(told.split())  # of Windows, and of PyPy


def test_an_interpreter_that_does_not_know_what_is_needed_does_not_say_half_of_it(tmp_path: Path) -> None:
    told = check("--wheels", python=str(bare_python(tmp_path)))
    assert told.returncode == 3, told.stderr
    assert told.stdout.startswith("cannot say: ")
    assert "PYTHON=" in told.stdout


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


LEAVE_SOMEBODY = """
import subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(left.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_what_a_step_has_started_neither_keeps_the_next_waiting_nor_outlives_a_step_that_was_ended() -> None:
    """It has a session of its own, and what the step says is open to it."""
    passed = run(Step("passed", ["-c", LEAVE_SOMEBODY, "0"], 60), 60)
    os.kill(int(passed.figures), signal.SIGKILL)  # its parent had ended before anybody looked
    assert passed.status == "passed"
    ended = run(Step("ended", ["-c", LEAVE_SOMEBODY, "600"], 3), 3)
    assert ended.status == "failed"
    stat, deadline = Path("/proc", ended.figures.split()[0], "stat"), time.monotonic() + 60
    with contextlib.suppress(FileNotFoundError):  # or it is dead, and not buried yet
        while stat.read_text().split()[2] not in "XZ":
            assert time.monotonic() < deadline, "it lives"
            time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_found_before_it_is_stopped_is_written(number: signal.Signals, tmp_path: Path) -> None:
    """As when somebody takes the machine away, or the line to it breaks."""
    (tmp_path / "device").mkdir()
    report = tmp_path / "report.json"
    command = [str(DOOR), "--fake", str(tmp_path / "device"), "--json", str(report)]
    environment = {**os.environ, "PYTHON": sys.executable}
    heeded = functools.partial(
        signal.signal, number, signal.SIG_DFL
    )  # a shell cannot trap what nohup has it ignore
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heeded
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("passed")
        while not json.loads(report.read_text())["steps"]:  # it says so first
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    found = json.loads(report.read_text())
    assert [step["name"] for step in found["steps"]] == ["probe"]
    assert not found["complete"]


@pytest.mark.parametrize("fake", [None, Path("device")])
def test_every_step_has_a_share_of_the_eight_minutes(fake: Path | None, tmp_path: Path) -> None:
    """So none is left out because another hangs, and what one saves the later ones may have."""
    found = steps(fake, tmp_path)
    assert DEVICE.limit_s + sum(step.limit_s for step in found) <= BUDGET_S == 480
    assert len({step.name for step in found}) == len(found)


def test_the_benchmark_of_a_gpu_knows_the_options_that_it_is_given(tmp_path: Path) -> None:
    """As far as a wrong one says so: `--help` comes first, but not before what does not exist."""
    (step,) = (step for step in steps(None, tmp_path) if step.name == "end-to-end")
    assert "--no-lent" in step.arguments
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


@pytest.mark.parametrize(
    ("client", "daemons", "chosen"),
    [("cuda:0", "cuda:0", "cuda_ipc"), ("cpu", "cuda:0", "posix_shm"), ("cuda:1", "cuda:0", "posix_shm")],
)
def test_rows_travel_as_the_parity_of_each_client_wants_although_it_sees_every_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, daemons: str, chosen: str
) -> None:
    """Over two fake devices; the daemon has always asked for them."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    transport = CudaIpc(FakeDevices(*folders))
    monkeypatch.setenv(WISH_VARIABLE, "1")
    offered = [transport.placed(daemons).capability(), POSIX_SHM.capability()]
    monkeypatch.setenv(WISH_VARIABLE, wish(client, daemons))
    assert choose(offered, [transport.capability(), POSIX_SHM.capability()]).transport == chosen


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
