"""A thread leaves the spared core or stays on it, and can go back to where it could be before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from symbiosis_core.spared_core import Place, go, return_to, spared_core

USABLE = os.sched_getaffinity(0)
two_cores = pytest.mark.skipif(len(USABLE) < 2, reason="needs two cores")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    os.sched_setaffinity(0, USABLE)


@two_cores
@pytest.mark.parametrize("leave", [True, False])
def test_it_goes_where_it_is_asked_to_be_and_back(leave: bool) -> None:
    core = spared_core()
    assert core == min(USABLE)
    before = go(Place(core, leave))
    assert before == USABLE
    assert os.sched_getaffinity(0) == (USABLE - {core} if leave else {core})
    return_to(before)
    assert os.sched_getaffinity(0) == USABLE


@two_cores
def test_no_other_thread_is_moved() -> None:
    def elsewhere(work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    elsewhere(lambda: go(Place(min(USABLE), leave=True)))
    assert os.sched_getaffinity(0) == USABLE


def test_on_one_core_there_is_none_to_spare_and_nobody_moves() -> None:
    (one, *_) = USABLE
    os.sched_setaffinity(0, {one})
    assert spared_core() is None
    assert go(Place(one, leave=True)) is None
    assert go(Place(one, leave=False)) is None
    assert os.sched_getaffinity(0) == {one}


@pytest.mark.parametrize("leave", [True, False])
def test_a_core_that_it_may_not_use_changes_nothing(leave: bool) -> None:
    """As where the daemon runs in another set of cores than its client."""
    assert go(Place(max(USABLE) + 1, leave)) is None
    assert os.sched_getaffinity(0) == USABLE


def test_a_sandbox_that_forbids_it_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, cores: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    assert go(Place(0, leave=True)) is None
    return_to({0, 1})
