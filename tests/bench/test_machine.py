"""A figure says which code made it, and on what."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from symbiosis_bench.machine import Machine, commit, this_machine
from symbiosis_core import __version__

wants_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a file that is committed, whatever the user's git is told: to sign commits, or to run hooks."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "code.py").write_text("one")
    for command in ("init -q", "add code.py", "-c user.name=a -c user.email=b commit -q -m one"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path / "code.py"


@wants_git
def test_a_checkout_is_told_by_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    clean = commit(checkout)
    assert len(clean) == 40
    checkout.write_text("two")
    assert commit(checkout) == f"{clean}+changes"


@wants_git
def test_what_is_installed_is_of_no_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the environment lies in somebody's checkout, or nobody has installed git."""
    installed = checkout.parent / ".venv" / "code.py"
    installed.parent.mkdir()
    installed.write_text("one")
    assert commit(installed) == ""
    assert commit(tmp_path_factory.mktemp("nowhere") / "code.py") == ""
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) == ""


def test_the_machine_is_told() -> None:
    machine = this_machine()
    assert machine.symbiosis == __version__
    assert machine.memory_bytes >= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    told = Path("/proc/cpuinfo").read_text().split()
    assert set(machine.cpu_flags) <= set(told)


def test_reports_of_before_can_still_be_read() -> None:
    """`symbiosis bench compat --from` does."""
    of_before = {"cores": 2, "cpu": "x", "python": "3", "torch": "2", "transformers": "5", "peft": "0"}
    machine = msgspec.convert(of_before | {"os": "Linux", "date": "2026-01-01"}, Machine)
    assert (machine.commit, machine.cpu_flags) == ("", ())
