"""Several processes train one adapter together, each a client of its own, and the base is there once for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.daemon_process import DaemonProcess

pytestmark = (
    pytest.mark.long
)  # three processes that import everything; tests/adapters/model/test_replicas.py is fast

SCRIPT = Path(__file__).with_name("several_processes.py")


@pytest.fixture(scope="module")
def trained(tiny_daemon: DaemonProcess, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    done = subprocess.run(
        [*command, str(folder), str(tiny_path), tiny_daemon.address],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def results(folder: Path, kind: str, rank: int) -> Any:
    return json.loads((folder / f"{kind}-{rank}.json").read_text())


@pytest.mark.parametrize("way", ["prepared", "unused"])
def test_losses_and_averaged_gradients_equal_plain_data_parallel_training(trained: Path, way: str) -> None:
    """`prepared` by accelerate; `unused`: with find_unused_parameters, which follows the output's graph."""
    gradients = []
    for rank in (0, 1):
        found, expected = (results(trained, kind, rank)[way] for kind in ("shared", "plain"))
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert found["gradients"].keys() == expected["gradients"].keys()
        for name, values in expected["gradients"].items():
            gradient, wanted = torch.tensor(found["gradients"][name]), torch.tensor(values)
            scale = wanted.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-4 * scale, msg=name)
        gradients.append(found["gradients"])
    assert gradients[0] == gradients[1], "every process has the average"
    losses = [results(trained, "shared", rank)[way]["losses"] for rank in (0, 1)]
    assert losses[0] != losses[1], "each had rows of its own"


def test_trainer_logs_what_it_logs_on_plain_bases(trained: Path) -> None:
    found, expected = (results(trained, kind, 0)["trainer"] for kind in ("shared", "plain"))
    assert len(found) == 3
    assert found == pytest.approx(expected, rel=1e-5)
