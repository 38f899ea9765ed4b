"""A device that is not there is refused before anything is loaded, with what torch sees and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symbiosis_core.errors import UsageError
from symbiosis_scheduler.frozen.devices import find_device


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", "mps", "meta", "cuda:٣"]
)
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="give cpu, cuda or cuda:N"):
        find_device(name)


def test_a_gpu_that_torch_does_not_see_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--device cuda:999: torch .*give ") as refused:
        find_device("cuda:999")
    assert ("built without CUDA" in str(refused.value)) is not torch.backends.cuda.is_built()


@pytest.mark.parametrize("name", ["gpu", "cuda:999"])
def test_serve_refuses_it_before_it_loads_or_claims_anything(tmp_path: Path, name: str) -> None:
    """The model is none, and that is not what the message is about."""
    options = ["--model", str(tmp_path / "no-model"), "--listen", f"ipc://{tmp_path}/d.sock", "--device", name]
    daemon = subprocess.run(
        [sys.executable, "-m", "symbiosis_core", "serve", *options], capture_output=True, text=True, timeout=300
    )
    assert daemon.returncode != 0
    assert f"--device {name}" in daemon.stderr
    assert "Traceback" not in daemon.stderr
    assert "no-model" not in daemon.stderr
    assert not list(tmp_path.iterdir())
