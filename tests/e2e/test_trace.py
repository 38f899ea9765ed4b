"""A daemon at work is recorded, and the simulator comes to what it did; `top` shows it meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from statistics import median

import pytest
import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.wire import DaemonStatus
from tests.e2e.daemon_process import DaemonProcess

SECONDS = 6
SEEDS = 5
HELD = ("mean_us", "rows_per_s")
COMPARED = (*HELD, "p50_us", "p99_us", "forward_p50_us", "forward_p99_us")


def symbiosis(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "symbiosis_core", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def work(address: str, lane: str, seed: int, stop: threading.Event) -> None:
    """Trains or generates until told to stop."""
    model = AutoModelForCausalLM.from_pretrained(address, lane=lane, name=f"{lane}-{seed}")
    dice = torch.Generator().manual_seed(seed)
    if lane == "training":
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    while not stop.is_set():
        ids = torch.randint(3, 128, (2, 16) if lane == "training" else (1, 5 + seed), generator=dice)
        if lane == "training":
            model(input_ids=ids, labels=ids).loss.backward()
        else:
            model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    (model.base_model.model if lane == "training" else model).symbiosis.close()


@pytest.mark.long
def test_the_simulator_is_within_fifteen_percent_of_the_daemon(
    fresh_daemon: DaemonProcess, tmp_path: Path
) -> None:
    """The same requests take as long in virtual time as they took, and wait as long."""
    stop, address = threading.Event(), fresh_daemon.address
    clients = [("inference", 1), ("inference", 2), ("training", 3)]
    workers = [threading.Thread(target=work, args=(address, *client, stop)) for client in clients]
    for worker in workers:
        worker.start()
    try:
        check(fresh_daemon, tmp_path)
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)


def check(fresh_daemon: DaemonProcess, tmp_path: Path) -> None:
    def at_work(status: DaemonStatus) -> bool:
        return len(status.clients) == 3 and all(client.requests > 200 for client in status.clients)

    fresh_daemon.wait_status(at_work, "all work")
    trace, policy, out = tmp_path / "a.trace", tmp_path / "a.toml", tmp_path / "out.json"
    picture = tmp_path / "a.svg"
    policy.write_text("")  # the defaults, as the daemon has them
    symbiosis("trace", "record", str(trace), "--address", fresh_daemon.address, "--seconds", str(SECONDS))
    live = symbiosis("top", "--address", fresh_daemon.address, "--looks", "1", "--every", "0.2")
    assert "inference-1" in live and "training" in live and "clients a batch" in live

    simulated = ["policy", "simulate", str(trace), "--policy", str(policy), "--json", str(out)]
    shown = symbiosis(*simulated, "--plot", str(picture))
    assert "latency_first" in shown and picture.read_text().startswith("<svg")
    runs = []
    for seed in range(SEEDS):
        symbiosis(*simulated, "--seed", str(seed))
        recorded, found = json.loads(out.read_text())
        runs.append({lane["lane"]: lane for lane in found["lanes"]})
    assert recorded["name"] == "recorded" and {lane["lane"] for lane in recorded["lanes"]} == set(runs[0])
    for real in recorded["lanes"]:
        lane = real["lane"]
        simulated_as = {name: median(run[lane][name] for run in runs) for name in COMPARED}
        told = f"{lane}: real {[real[name] for name in COMPARED]}, simulated {simulated_as}"
        for name in HELD:
            assert abs(simulated_as[name] / real[name] - 1) < 0.15, f"{name} of {told}"
