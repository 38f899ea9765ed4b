"""Losses are compared over means that share no step; what cannot be known is not invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symbiosis_bench.demo.accounts import Account
from symbiosis_bench.demo.progress import Step, Tokens
from symbiosis_bench.demo.standing import AVERAGED, between, quantile, standing, trend
from symbiosis_core.wire import BatchStatus, ClientStatus
from tests.bench.samples import held


@pytest.mark.parametrize(
    ("losses", "first", "last"),
    [
        ([], None, None),
        ([4.0], 4.0, 4.0),
        ([4.0, 2.0], 4.0, 2.0),
        ([4.0, 9.0, 2.0], 4.0, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 3.5, 1.5),
        ([5.0] * 5 + [100.0] * 90 + [1.0] * 5, 5.0, 1.0),
    ],
)
def test_the_trend_is_from_the_first_steps_mean_to_the_last_ones(
    losses: list[float], first: float | None, last: float | None
) -> None:
    assert trend(losses) == (first, last)


@given(st.lists(st.floats(0, 20), min_size=2, max_size=40))
def test_no_step_counts_on_both_sides_of_a_trend(losses: list[float]) -> None:
    averaged = min(AVERAGED, len(losses) // 2)
    changed = [*losses[:-averaged], *(loss + 1 for loss in losses[-averaged:])]
    first, last = trend(losses)
    changed_first, changed_last = trend(changed)
    assert first is not None
    assert last is not None
    assert changed_first == first
    assert changed_last == pytest.approx(last + 1)


def test_quantiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, q) for q in (0, 0.5, 0.99, 1)] == [1.0, 50.0, 99.0, 100.0]
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([], 0.5) == 0.0


def test_batches_between_two_looks_are_the_difference() -> None:
    before, after = BatchStatus(10, 12, 500, 11, 1.5), BatchStatus(30, 40, 1500, 36, 4.0)
    assert between(before, after) == BatchStatus(20, 28, 1000, 25, 2.5)


def test_a_tenants_rates_are_per_second_of_the_measured_phase() -> None:
    account = Account("persona", "training", "LoRA")
    account.take(Step(1, 4.0, 96))
    account.take(Step(2, 3.0, 192))
    seen = ClientStatus(1, "persona", "training", 11, "posix_shm", 9.0, 5, 500, 0, 0, 400.0, 9000.0, 0)
    found = standing(account, 4.0, seen)
    assert (found.steps, found.rows_per_s, found.loss_first, found.loss_last) == (2, 48.0, 4.0, 3.0)
    assert (found.request_p50_ms, found.request_p99_ms) == (0.4, 9.0)


def test_a_tenant_of_which_the_daemon_knows_nothing_has_figures_too() -> None:
    account = Account("chat", "inference", "generate()")
    account.take(Tokens(3, 20, (50.0, 70.0)))
    found = standing(account, 2.0, None)
    assert (found.tokens, found.rows_per_s, found.decode_p50_ms, found.decode_p99_ms) == (3, 10.0, 50.0, 70.0)
    assert (found.request_p50_ms, found.loss_first, found.said) == (0.0, None, "")


def test_nothing_is_divided_by_a_phase_that_has_not_begun() -> None:
    assert standing(Account("chat", "inference", "generate()"), 0.0, None).rows_per_s == 0.0


def test_dedicated_copies_are_the_tenants_and_a_base_in_each() -> None:
    memory = held(600, 2000)
    assert memory.shared_bytes == 2600
    assert memory.dedicated_bytes == 2000 + 4 * memory.base_bytes


def test_memory_that_the_kernel_does_not_tell_is_not_invented() -> None:
    assert held(None, 2000).shared_bytes is None
    assert held(None, 2000).dedicated_bytes is not None
    assert (held(600, None).shared_bytes, held(600, None).dedicated_bytes) == (None, None)
