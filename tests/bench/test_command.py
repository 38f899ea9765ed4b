"""`symbiosis demo`: light to look at, clear about what it cannot do; and once for real."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from symbiosis_bench.demo.course import tenant_environment

SYMBIOSIS = [sys.executable, "-m", "symbiosis_core"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SYMBIOSIS, "demo", *arguments], cwd=folder, env=os.environ, capture_output=True, text=True
    )


def test_the_parent_imports_no_torch() -> None:
    """It only watches; each of its children pays for torch already."""
    heavy = "{'torch', 'transformers', 'peft'}"
    script = f"import sys, symbiosis_bench.demo.command; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_place_that_cannot_be_written_is_told_before_a_minute_is_spent(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", str(tmp_path / "no" / "out.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"error: cannot write {tmp_path}/no/out.json: No such file or directory; choose another path\n"
    )


def test_a_daemon_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--address", f"ipc://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert "there is no such socket" in done.stderr


def test_tenants_share_the_cores_unless_the_user_says_otherwise() -> None:
    assert tenant_environment({}, cores=2)["OMP_NUM_THREADS"] == "1"
    assert tenant_environment({}, cores=64)["OMP_NUM_THREADS"] == "12"
    assert tenant_environment({"OMP_NUM_THREADS": "3", "HOME": "/root"}, cores=2) == {
        "OMP_NUM_THREADS": "3",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/root",
    }


def test_the_demo_runs(tmp_path: Path) -> None:
    """For real, and short: daemon, three trainings, a chat, their adapters and the figures."""
    done = run(tmp_path, "--seconds", "5", "--json", "out.json", "--out", "adapters")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert [tenant["name"] for tenant in told["tenants"]] == ["persona", "pydocs", "bookings"]
    for tenant in told["tenants"]:
        assert tenant["steps"] > 0
        assert tenant["rows_per_s"] > 0
        assert tenant["loss_first"] > 0
        assert (Path(tenant["adapter"]) / "adapter_model.safetensors").stat().st_size > tenant[
            "trainable_parameters"
        ]
        assert tenant["adapter"] == str(tmp_path / "adapters" / tenant["name"])
    assert told["inference"]["tokens"] > 0
    assert 0 < told["inference"]["p50_ms"] <= told["inference"]["p99_ms"]
    assert told["base"]["bytes"] > 200e6
    assert told["memory"]["dedicated_bytes"] == told["memory"]["pss_clients_bytes"] + 4 * told["base"]["bytes"]
    assert 0 < told["batches"]["count"] <= told["batches"]["requests"] <= told["batches"]["rows"]
    assert told["before_after"]["before"]
    assert told["before_after"]["after"]
    assert "asked before and after: What is your name?" in done.stdout
    assert str(tmp_path) not in command_lines()


def command_lines() -> str:
    """Returns those of all processes: every training tenant's names the folder of its adapter."""
    told = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            told.append(path.read_text(errors="replace"))
    return "\n".join(told)
