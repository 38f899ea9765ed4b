"""An address has one owner, who keeps it until he dies."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from symbiosis_core.errors import UsageError
from symbiosis_transports.claim import AddressClaim


def test_a_second_claim_names_the_holder_and_takes_nothing_away(tmp_path: Path) -> None:
    first = AddressClaim(f"ipc://{tmp_path}/s.sock")
    first.take()
    second = AddressClaim(f"ipc://{tmp_path}/s.sock")
    for _ in range(2):
        with pytest.raises(UsageError, match=f"in use by the daemon with pid {os.getpid()}"):
            second.take()
    first.give_back()
    second.take()
    second.give_back()


def test_a_killed_holders_address_is_free(tmp_path: Path) -> None:
    script = (
        "import sys, time; from symbiosis_transports.claim import AddressClaim\n"
        f"AddressClaim('ipc://{tmp_path}/s.sock').take(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        claim = AddressClaim(f"ipc://{tmp_path}/s.sock")
        with pytest.raises(UsageError, match=str(holder.pid)):
            claim.take()
        holder.kill()
    claim.take()
    claim.give_back()


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    claim = AddressClaim(f"ipc://{tmp_path}/new/folder/s.sock")
    claim.take()
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700
    claim.give_back()


@pytest.mark.parametrize(("mode", "fits"), [(0o777, False), (0o1777, True), (0o770, True)])
def test_a_folder_in_which_everybody_may_exchange_sockets_is_refused(
    tmp_path: Path, mode: int, fits: bool
) -> None:
    """One like /tmp, where only a file's owner may, will do."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    claim = AddressClaim(f"ipc://{tmp_path}/open/s.sock")
    with contextlib.nullcontext() if fits else pytest.raises(UsageError, match="chmod o-w"):
        claim.take()
    claim.give_back()


def test_a_folder_that_is_everybodys_gets_an_address_in_it_that_fits(tmp_path: Path) -> None:
    """Like an emptyDir of Kubernetes, which is root's, so that nobody else could change its mode."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UsageError) as refused:
        AddressClaim(f"ipc://{shared}/d.sock").take()
    (named,) = re.findall(r"such as (ipc://\S+),", str(refused.value))
    claim = AddressClaim(named)
    claim.take()
    assert (shared / "symbiosis").stat().st_mode & 0o777 == 0o700
    claim.give_back()


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose a path you may write"):
        AddressClaim(f"ipc://{tmp_path}/file/s.sock").take()
    with pytest.raises(UsageError, match="a daemon listens at a socket"):
        AddressClaim("embedded:smollm2")


@pytest.mark.parametrize("name", ["s.sock", "s.sock.data"])
def test_a_file_that_stands_there_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("somebody's notes")
    claim = AddressClaim(f"ipc://{tmp_path}/s.sock")
    with pytest.raises(UsageError, match="is no socket"):
        claim.take()
    assert (tmp_path / name).read_text() == "somebody's notes"
    (tmp_path / name).unlink()
    claim.take()
    claim.give_back()


@pytest.mark.parametrize(("link", "says"), [(os.symlink, "is a link"), (os.link, "is left alone")])
def test_a_lock_that_is_another_files_name_leaves_that_file_alone(
    tmp_path: Path, link: Callable[[Path, Path], None], says: str
) -> None:
    """Root may serve in somebody's folder, who could have it cut any file to nothing."""
    notes, address = tmp_path / "notes", f"ipc://{tmp_path}/s.sock"
    notes.write_text("root's notes")
    link(notes, tmp_path / "s.sock.lock")
    with pytest.raises(UsageError, match=f"s.sock.lock .*{says}.* choose another address"):
        AddressClaim(address).take()
    assert notes.read_text() == "root's notes"


def test_a_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.sock.lock")
    with pytest.raises(UsageError, match="is no lock of a daemon of yours"):
        AddressClaim(f"ipc://{tmp_path}/s.sock").take()
