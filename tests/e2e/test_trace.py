"""A daemon at work is recorded, and the simulator comes to what it did; `top` shows it meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.wire import DaemonStatus
from symbiosis_scheduler.simulation.trace import Kind, read_trace
from tests.e2e.daemon_process import DaemonProcess

SECONDS = 6
SEEDS = 5


def symbiosis(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "symbiosis_core", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Lane:
    """What a lane did, by the trace."""

    def __init__(self) -> None:
        self.latencies_us: list[int] = []
        self.rows: Counter[int] = Counter()
        self.first_us: dict[int, int] = {}
        self.last_us: dict[int, int] = {}

    @property
    def rows_per_s(self) -> float:
        return sum(self.rows[who] * 1e6 / (self.last_us[who] - self.first_us[who]) for who in self.rows)


def measured(records: list[tuple[Any, ...]]) -> dict[str, Lane]:
    """Returns what every lane did."""
    lanes: dict[str, Lane] = defaultdict(Lane)
    lane_of: dict[int, str] = {}
    open: dict[tuple[int, int], tuple[int, int]] = {}
    for kind, *fields in records:
        if kind == Kind.JOIN:
            lane_of[fields[1]] = fields[2]
        elif kind == Kind.ASK:
            us, client, slot, _, _, rows = fields
            lanes[lane_of[client]].first_us.setdefault(client, us)
            open[client, slot] = us, rows
        elif kind == Kind.ANSWER and (asked := open.pop((fields[1], fields[2]), None)) is not None:
            us, client, _ = fields
            lane = lanes[lane_of[client]]
            lane.latencies_us.append(us - asked[0])
            lane.rows[client] += asked[1]
            lane.last_us[client] = us
    return lanes


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
    lanes, runs = measured(read_trace(trace)), []
    for seed in range(SEEDS):
        symbiosis(*simulated, "--seed", str(seed))
        runs += json.loads(out.read_text())
    for name, real in lanes.items():
        of_lane = [lane for found in runs for lane in found["lanes"] if lane["lane"] == name]
        rows_per_s = median(lane["rows_per_s"] for lane in of_lane)
        mean_us = median(lane["mean_us"] for lane in of_lane)
        told = f"{name}: real {real.rows_per_s:.0f} rows/s, {mean(real.latencies_us):.0f} us; "
        told += f"simulated {rows_per_s:.0f} rows/s, {mean_us:.0f} us"
        assert abs(rows_per_s / real.rows_per_s - 1) < 0.15, told
        assert abs(mean_us / mean(real.latencies_us) - 1) < 0.15, told
