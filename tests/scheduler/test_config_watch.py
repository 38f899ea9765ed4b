"""A file is applied once it has changed and settled, in whatever way. A bad one, or none, changes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from symbiosis_core.config import DaemonConfig, PolicyConfig
from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_scheduler.config_watch import ConfigWatch
from symbiosis_scheduler.reconfiguration import Reconfiguration

FIFO, FAIR = '[policy]\nname = "fifo"\n', '[policy]\nname = "weighted_fair"\n'


class Live:
    """A daemon that notes what it is held to; or refuses it."""

    def __init__(self) -> None:
        self.config = DaemonConfig(policy=PolicyConfig(name="fifo"))
        self.applied: list[str] = []
        self.refuses = False
        self.notes: tuple[str, ...] = ()

    async def apply(self, wanted: DaemonConfig, source: str) -> tuple[str, ...]:
        if self.refuses:
            raise RefusedError(RefusalCode.UNKNOWN_LANE, "somebody is in a lane that it lacks")
        self.applied.append(wanted.policy.name)
        return self.notes


@pytest.fixture
def live() -> Live:
    return Live()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "daemon.toml"
    file.write_text(FIFO)
    return file


@pytest.fixture
def watch(file: Path, live: Live) -> ConfigWatch:
    return ConfigWatch(file, cast("Reconfiguration", live))


def look(watch: ConfigWatch, times: int = 2) -> None:
    for _ in range(times):
        asyncio.run(watch.look())


def written_anew(file: Path) -> None:
    file.write_text(FAIR)


def moved_over(file: Path) -> None:
    fresh = file.with_name("fresh")
    fresh.write_text(FAIR)
    fresh.rename(file)


def removed_and_made_again(file: Path) -> None:
    file.unlink()
    file.write_text(FAIR)


def linked_to(file: Path) -> None:
    fresh, link = file.with_name("fresh"), file.with_name("link")
    fresh.write_text(FAIR)
    link.symlink_to(fresh)
    link.rename(file)


@pytest.mark.parametrize("change", [written_anew, moved_over, removed_and_made_again, linked_to])
def test_a_changed_file_is_applied_once(
    change: Callable[[Path], None], file: Path, watch: ConfigWatch, live: Live
) -> None:
    look(watch)
    assert not live.applied, "it is what the daemon began with"
    change(file)
    look(watch, 5)
    assert live.applied == ["weighted_fair"]


def test_a_link_that_is_moved_is_followed(file: Path, live: Live) -> None:
    """As folders of settings are exchanged as a whole."""
    other, link = file.with_name("other.toml"), file.with_name("current.toml")
    other.write_text(FAIR)
    link.symlink_to(file)
    watch = ConfigWatch(link, cast("Reconfiguration", live))
    moved = link.with_name("moved")
    moved.symlink_to(other)
    moved.rename(link)
    look(watch)
    assert live.applied == ["weighted_fair"]


def test_an_editor_that_truncates_first_is_waited_for(file: Path, watch: ConfigWatch, live: Live) -> None:
    file.write_text("")
    look(watch, 1)
    file.write_text(FAIR[:12])
    look(watch, 1)
    file.write_text(FAIR)
    look(watch, 1)
    assert not live.applied
    look(watch, 1)
    assert live.applied == ["weighted_fair"]


def test_where_there_is_no_file_the_last_one_holds_and_it_is_said_once(
    file: Path, watch: ConfigWatch, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    file.unlink()
    look(watch, 4)
    assert not live.applied
    assert [record.getMessage().count(str(file)) for record in caplog.records] == [1]
    file.write_text(FAIR)
    look(watch)
    assert live.applied == ["weighted_fair"]


@pytest.mark.parametrize(
    "text",
    ["", "\n \n", "\xef\xbb\xbf", "[policy", '[policy]\nname = "mine"\n', "[lanes.a]\npriority = -1\n", "\xff"],
)
def test_a_bad_file_changes_nothing_and_is_told_once(
    text: str, file: Path, watch: ConfigWatch, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(text.encode("latin-1"))
    look(watch, 4)
    assert not live.applied
    (record,) = caplog.records
    assert "configuration not applied, the one before holds" in record.getMessage()
    file.write_text(FAIR)
    look(watch)
    assert live.applied == ["weighted_fair"]


def test_a_file_that_the_daemon_refuses_is_told_and_the_next_one_taken(
    file: Path, watch: ConfigWatch, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    live.refuses = True
    file.write_text(FAIR)
    look(watch, 3)
    assert ["a lane that it lacks" in record.getMessage() for record in caplog.records] == [True]
    file.write_text(FIFO)
    live.refuses = False
    os.utime(file, ns=(1, 1))  # older than the one before, as a copy from an archive is
    look(watch)
    assert live.applied == ["fifo"]


def test_what_changed_before_the_first_look_is_applied(file: Path, live: Live) -> None:
    """The daemon was loading its models meanwhile."""
    file.write_text(FAIR)
    look(ConfigWatch(file, cast("Reconfiguration", live)), 4)
    assert live.applied == ["weighted_fair"]


def test_what_was_applied_by_hand_before_the_first_look_holds(file: Path, watch: ConfigWatch, live: Live) -> None:
    live.config = DaemonConfig(policy=PolicyConfig(name="deadline"))
    look(watch, 4)
    assert not live.applied, "the file is what the daemon began with"


def test_what_is_refused_for_somebody_who_is_there_is_applied_once_he_has_left(
    file: Path, watch: ConfigWatch, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    live.refuses = True
    file.write_text(FAIR)
    look(watch, 5)
    live.refuses = False
    look(watch, 5)
    assert live.applied == ["weighted_fair"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_holds_only_from_the_next_start_on_or_never_is_logged(
    file: Path, watch: ConfigWatch, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    live.notes = ("limits.segments holds from the next start of the daemon on",)
    file.write_text("[policy]\nname = 'fifo'\n[lanes.a]\npriority = 0\nweight = 2.0\n")
    look(watch, 4)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "limits.segments holds" in said[0] and "lanes.a.weight" in said[1]
