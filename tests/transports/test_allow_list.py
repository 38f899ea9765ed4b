"""Whatever happens to the folder with the keys, it locks nobody out who is in, and what mends it is seen."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import zmq.auth

from symbiosis_core.errors import UsageError
from symbiosis_transports.allow_list import AllowList, read_key
from symbiosis_transports.keys import new_pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A friend's key is in it, and a stranger's beside it."""
    folder = tmp_path / "allowed"
    new_pair(folder, "friend")
    new_pair(tmp_path, "stranger")
    return folder


@pytest.fixture
def friend(folder: Path) -> bytes:
    return read_key(folder / "friend.key")[0]


@pytest.fixture
def stranger(tmp_path: Path, folder: Path) -> bytes:
    return read_key(tmp_path / "stranger.key")[0]


def test_a_key_file_that_is_cut_short_anywhere_is_a_key_or_changes_nothing(
    folder: Path, tmp_path: Path, friend: bytes, stranger: bytes
) -> None:
    """As the authenticator asks, whose thread ends where it is answered with an exception."""
    whole = (tmp_path / "stranger.key").read_bytes()
    allowed = AllowList(folder)
    for length in range(len(whole)):
        (folder / "half.key").write_bytes(whole[:length])
        assert allowed.callback("*", friend)
        assert allowed.callback("*", stranger) == (stranger in whole[:length])


def test_what_the_system_did_not_let_it_read_is_read_later_although_nothing_has_changed(
    folder: Path,
    tmp_path: Path,
    friend: bytes,
    stranger: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And is said once. In the meantime those of before hold. It is tried once a second, however many come."""
    now_s = 100.0
    allowed = AllowList(folder, lambda: now_s)
    tries = 0
    (tmp_path / "stranger.key").rename(folder / "stranger.key")
    (folder / "friend.key").unlink()
    with monkeypatch.context() as no_files_left:

        def fail(file: Path) -> None:
            nonlocal tries
            tries += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        no_files_left.setattr(zmq.auth, "load_certificate", fail)
        for second in range(3):
            for _ in range(50):
                assert (allowed.name_of(friend), allowed.name_of(stranger)) == ("friend", None)
            assert tries == second + 1
            now_s += 1
    (said,) = caplog.messages
    assert os.strerror(errno.EMFILE) in said
    assert (allowed.name_of(friend), allowed.name_of(stranger)) == (None, "stranger")


def test_a_change_is_read_at_once_although_the_last_try_failed_just_now(
    folder: Path, friend: bytes, stranger: bytes
) -> None:
    """As when a link to nothing, in the place of a key, is taken away; its clock stands still."""
    allowed = AllowList(folder, lambda: 100.0)
    (folder / "stranger.key").symlink_to("nowhere")
    assert allowed.name_of(stranger) is None
    (folder / "stranger.key").unlink()
    (folder.parent / "stranger.key").rename(folder / "stranger.key")
    assert allowed.name_of(stranger) == "stranger"


def test_trouble_that_lasts_is_said_once(folder: Path, friend: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """And by the name of the file, also of one that is a link to nothing."""
    allowed = AllowList(folder)
    (folder / "lost.key").symlink_to("nowhere")
    assert [allowed.name_of(friend) for _ in range(3)] == ["friend"] * 3
    (said,) = caplog.messages
    assert "lost.key is no key" in said
    (folder / "lost.key").unlink()
    new_pair(folder, "late")
    assert allowed.name_of(read_key(folder / "late.key")[0]) == "late"


def test_a_daemon_that_starts_with_a_link_to_nothing_says_which(folder: Path) -> None:
    (folder / "lost.key").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"lost\.key is no key"):
        AllowList(folder)


def test_a_change_that_leaves_size_and_time_of_a_file_as_they_were_is_seen(
    folder: Path, friend: bytes, stranger: bytes
) -> None:
    """As `cp -p` and `chmod` make them: the kernel still says when that was."""
    file = folder / "friend.key"
    before, allowed = file.stat(), AllowList(folder)
    file.write_bytes(file.read_bytes().replace(friend, stranger))
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # its clock ticks slowly
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)
    assert (allowed.name_of(friend), allowed.name_of(stranger)) == (None, "friend")
