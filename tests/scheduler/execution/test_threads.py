"""A product gets as many threads as its size and its company allow, and every thread has its own number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from symbiosis_core.errors import UsageError
from symbiosis_scheduler.execution.threads import MANY_ROWS, ThreadChoice

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def chosen(threads: ThreadChoice, rows: int, *, company: int | None = 0, kind: object = None) -> int:
    used = threads.use_for(rows, company=company, kind=kind)
    assert used.threads == torch.get_num_threads()
    return used.threads


def test_few_rows_get_one_thread_and_many_get_all_but_those_of_the_company() -> None:
    threads = ThreadChoice(0)
    assert chosen(threads, MANY_ROWS - 1) == 1
    assert chosen(threads, MANY_ROWS) == CORES
    assert chosen(threads, MANY_ROWS, company=1) == max(1, CORES - 1)
    assert chosen(threads, 1, company=1) == 1


def test_any_company_leaves_half_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    threads = ThreadChoice(0)
    assert [chosen(threads, MANY_ROWS, company=company) for company in (0, 1, 3, 4, 5, 100)] == [8, 7, 5, 4, 4, 4]


def test_one_thread_is_one_in_company_too() -> None:
    assert chosen(ThreadChoice(1), MANY_ROWS, company=1) == 1


def test_what_another_thread_was_given_is_nothing_to_this_one() -> None:
    threads = ThreadChoice(0)
    assert chosen(threads, 1) == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(chosen, threads, MANY_ROWS).result() == CORES
        assert chosen(threads, 1) == 1
        assert pool.submit(chosen, threads, 1).result() == 1


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match=f"may use {CORES} cores"):
        ThreadChoice(CORES + 1)


def trial(threads: ThreadChoice, rows: int = 1, company: int | None = 0) -> set[int]:
    """Returns how many threads a kind of plan gets that all threads compute faster."""
    seen = set()
    for _ in range(50):
        used = threads.use_for(rows, company=company, kind="a token")
        seen.add(used.threads)
        threads.took(used, 3.0 if used.threads == 1 else 2.0)
    return seen


def test_few_rows_get_all_threads_where_that_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    assert trial(ThreadChoice(0)) == {1, 4}
    assert trial(ThreadChoice(1)) == {1}


@pytest.mark.parametrize("company", [1, None])
def test_few_rows_get_one_thread_beside_a_client_and_in_exact_batches(
    monkeypatch: pytest.MonkeyPatch, company: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    threads = ThreadChoice(0)
    assert trial(threads) == {1, 4}
    assert trial(threads, company=company) == {1}


def test_exact_batches_of_many_rows_have_all_threads_whoever_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    assert trial(ThreadChoice(0), rows=MANY_ROWS, company=None) == {4}
