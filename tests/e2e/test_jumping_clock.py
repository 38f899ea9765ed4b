"""A daemon and a tenant whose wall clocks jump to and fro train as plain PEFT does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, plain, random_batches, train
from tests.jumping_clock import PRELOAD, jumping_clock

ROOT: Final = Path(__file__).parents[2]
STEPS, TOKENS = 4, 20
TENANT: Final = f"""
import json, sys, torch
torch.set_num_threads(1)
from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.training import METHODS, random_batches, train
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(json.dumps(train(base, METHODS["lora_qv"], random_batches({STEPS}, {TOKENS}))[1]))
base.symbiosis.close()
"""


@pytest.mark.long
def test_clocks_that_jump_change_no_loss(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens stay valid, nobody ages, and no answer is late."""
    monkeypatch.setenv(PRELOAD, jumping_clock(tmp_path))
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32")
    try:
        daemon.start()
        tenant = [sys.executable, "-c", TENANT, daemon.address]
        done = subprocess.run(tenant, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        daemon.close()
    assert done.returncode == 0, done.stderr
    expected = train(plain(tiny_path), METHODS["lora_qv"], random_batches(STEPS, TOKENS))[1]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, rel=1e-5)
