"""A memo keeps within its budget, hands out what was kept once, and forgets the oldest and those who left."""

from __future__ import annotations

import torch

from symbiosis_core.ids import ClientId, OpId
from symbiosis_scheduler.execution.memo import Memo, MemoKey

WIDTH = 8
ROW_BYTES = 4 * WIDTH


def key(number: int, client: int = 1) -> MemoKey:
    return (ClientId(client), OpId(7), number)


def rows(count: int, fill: float = 1.0) -> dict[int, torch.Tensor]:
    return {3: torch.full((count, WIDTH), fill)}


def test_what_is_kept_is_found_once() -> None:
    memo = Memo(1000)
    memo.keep(key(1), 2, 0, rows(2, 5.0), whole=True)
    found = memo.find(key(1), 2, last=True)
    assert found is not None
    assert torch.equal(found[3], torch.full((2, WIDTH), 5.0))
    assert memo.find(key(1), 2, last=True) is None
    assert (memo.hits, memo.misses, memo.bytes) == (1, 1, 0)


def test_chunks_of_a_request_come_together() -> None:
    memo = Memo(1000)
    memo.keep(key(1), 3, 0, rows(2, 1.0), whole=True)
    memo.keep(key(1), 3, 2, rows(1, 2.0), whole=True)
    assert memo.bytes == 3 * ROW_BYTES
    assert memo.find(key(1), 3, last=False) is not None
    found = memo.find(key(1), 3, last=True)
    assert found is not None
    assert found[3][:, 0].tolist() == [1.0, 1.0, 2.0]
    assert memo.bytes == 0


def test_a_request_of_which_a_chunk_was_lost_is_lost() -> None:
    """Two requests of two chunks each, taken in turns, where there is room for one: the newer one stays, whole."""
    memo = Memo(2 * ROW_BYTES)
    for start in (0, 1):
        for number in (1, 2):
            memo.keep(key(number), 2, start, rows(1, 10.0 * number + start), whole=True)
    assert memo.find(key(1), 2, last=True) is None
    found = memo.find(key(2), 2, last=True)
    assert found is not None
    assert found[3][:, 0].tolist() == [20.0, 21.0]
    assert memo.bytes == 0


def test_a_forward_that_has_not_come_to_its_end_is_not_found() -> None:
    memo = Memo(1000)
    memo.keep(key(1), 3, 0, rows(2), whole=True)
    assert memo.find(key(1), 3, last=False) is None


def test_a_part_of_a_batch_does_not_keep_the_batch_alive() -> None:
    memo, batch = Memo(1000), torch.ones(50, WIDTH)
    memo.keep(key(1), 2, 0, {3: batch[10:12]}, whole=False)
    found = memo.find(key(1), 2, last=False)
    assert found is not None
    assert found[3].untyped_storage().nbytes() == 2 * ROW_BYTES


def test_the_oldest_goes_when_the_budget_is_spent() -> None:
    memo = Memo(4 * ROW_BYTES)
    for number in (1, 2, 3):
        memo.keep(key(number), 2, 0, rows(2), whole=True)
        assert memo.bytes <= memo.budget_bytes
    assert memo.find(key(1), 2, last=False) is None
    assert memo.find(key(2), 2, last=False) is not None
    assert memo.find(key(3), 2, last=False) is not None


def test_what_is_larger_than_the_budget_is_not_kept_and_costs_nobody_anything() -> None:
    memo = Memo(4 * ROW_BYTES)
    memo.keep(key(1), 2, 0, rows(2), whole=True)
    memo.keep(key(2), 5, 0, rows(5), whole=True)
    assert memo.find(key(1), 2, last=False) is not None
    assert memo.find(key(2), 5, last=False) is None


def test_a_number_that_is_used_again_is_the_newer_forward() -> None:
    memo = Memo(1000)
    memo.keep(key(1), 2, 0, rows(2, 1.0), whole=True)
    memo.keep(key(1), 2, 0, rows(2, 2.0), whole=True)
    found = memo.find(key(1), 2, last=True)
    assert found is not None
    assert found[3][0, 0] == 2.0
    assert memo.bytes == 0


def test_another_number_of_rows_is_another_forward() -> None:
    memo = Memo(1000)
    memo.keep(key(1), 2, 0, rows(2), whole=True)
    assert memo.find(key(1), 3, last=True) is None


def test_a_client_that_left_is_forgotten_and_nobody_else() -> None:
    memo = Memo(1000)
    memo.keep(key(1, client=1), 2, 0, rows(2), whole=True)
    memo.keep(key(1, client=2), 2, 0, rows(2), whole=True)
    memo.forget(ClientId(1))
    assert memo.find(key(1, client=1), 2, last=False) is None
    assert memo.find(key(1, client=2), 2, last=False) is not None
    assert memo.bytes == 2 * ROW_BYTES


def test_a_budget_of_nothing_keeps_nothing() -> None:
    memo = Memo(0)
    memo.keep(key(1), 2, 0, rows(2), whole=True)
    assert memo.find(key(1), 2, last=False) is None
