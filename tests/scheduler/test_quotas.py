"""Quotas hold in the long run, never break a forward off, and say when to try again."""

from __future__ import annotations

from symbiosis_core.config import LaneConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.quotas import Quotas, Reached

ONE, TWO, THREE = ClientId(1), ClientId(2), ClientId(3)
LANES = {
    "a": LaneConfig(priority=0, client_rows_per_s=100),
    "b": LaneConfig(priority=0, client_rows_per_s=100, user_rows_per_s=150),
    "free": LaneConfig(priority=0),
}


def served(quotas: Quotas, client: ClientId, seconds: int, rows: int) -> int:
    """Returns the rows of a client that begins a forward whenever it may."""
    total = now_us = 0
    while now_us < seconds * 1_000_000:
        reached = quotas.reached(client, now_us)
        if reached is None:
            quotas.charge(client, rows, now_us)
            total += rows
            now_us += 1
        else:
            now_us += reached.retry_us
    return total


def test_in_the_long_run_a_client_gets_its_rate_however_large_its_forwards_are() -> None:
    for rows in (1, 30, 999):
        quotas = Quotas(LANES)
        quotas.join(ONE, "a", "u")
        assert 100 * 100 <= served(quotas, ONE, 100, rows) <= 102 * 100 + rows


def test_what_was_taken_too_much_is_waited_for() -> None:
    quotas = Quotas(LANES)
    quotas.join(ONE, "a", "u")
    quotas.charge(ONE, 500, 0)
    assert quotas.reached(ONE, 0) == Reached("client_rows_per_s", 100, 3_000_001)
    assert quotas.reached(ONE, 3_000_001) is None


def test_clients_of_a_user_share_its_quota_and_the_longer_wait_is_told() -> None:
    quotas = Quotas(LANES)
    for client, user in ((ONE, "u"), (TWO, "u"), (THREE, "v")):
        quotas.join(client, "b", user)
    quotas.charge(ONE, 600, 0)
    own, shared, other = (quotas.reached(client, 0) for client in (ONE, TWO, THREE))
    assert own is not None and own.key == "client_rows_per_s"
    assert shared == Reached("user_rows_per_s", 150, 2_000_001)
    assert other is None


def test_connecting_anew_pays_no_debt_of_a_user_and_nothing_is_kept_of_who_has_none() -> None:
    quotas = Quotas(LANES)
    quotas.join(ONE, "b", "u")
    quotas.charge(ONE, 600, 0)
    quotas.leave(ONE)
    quotas.join(TWO, "b", "u")
    assert quotas.reached(TWO, 0) is not None
    assert quotas.reached(TWO, 10_000_000) is None
    quotas.leave(TWO)
    assert repr(quotas) == "<Quotas of 0 clients and 0 users>"


def test_who_has_no_quota_is_never_refused_and_costs_nothing() -> None:
    quotas = Quotas(LANES)
    quotas.join(ONE, "free", "u")
    quotas.charge(ONE, 1 << 40, 0)
    assert quotas.reached(ONE, 0) is None
    assert repr(quotas) == "<Quotas of 0 clients and 0 users>"
