"""Quotas hold in the long run, let what was begun go on for a minute's worth, and say when to try again."""

from __future__ import annotations

from symbiosis_core.config import LaneConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.quotas import FORWARD_S, Quotas, Reached
from symbiosis_scheduler.decisions.users import user_of

ONE, TWO, THREE = ClientId(1), ClientId(2), ClientId(3)
LANES = {
    "a": LaneConfig(priority=0, client_rows_per_s=100),
    "b": LaneConfig(priority=0, client_rows_per_s=100, user_rows_per_s=150),
    "free": LaneConfig(priority=0),
}


WHOSE = {ONE: ("b", "u"), TWO: ("b", "v"), THREE: ("free", "u")}


def served(quotas: Quotas, client: ClientId, seconds: int, rows: int) -> int:
    """Returns the rows of a client that begins a forward whenever it may."""
    total = now_us = 0
    while now_us < seconds * 1_000_000:
        if quotas.charge(client, rows, now_us, begins=True):
            total += rows
            now_us += 1
        else:
            reached = quotas.reached(client, now_us)
            assert reached is not None
            now_us += reached.retry_us
    return total


def owing(quotas: Quotas, client: ClientId, now_us: int = 0) -> int | None:
    """Returns when the client may begin a forward; None: now."""
    reached = quotas.reached(client, now_us)
    return None if reached is None else reached.retry_us


def test_in_the_long_run_a_client_gets_its_rate_however_large_its_forwards_are() -> None:
    for rows in (1, 30, 999):
        quotas = Quotas(LANES)
        quotas.join(ONE, "a", "u")
        assert 100 * 100 <= served(quotas, ONE, 100, rows) <= 102 * 100 + rows


def test_what_was_taken_too_much_is_waited_for() -> None:
    quotas = Quotas(LANES)
    quotas.join(ONE, "a", "u")
    assert quotas.charge(ONE, 500, 0, begins=True)
    assert quotas.reached(ONE, 0) == Reached("client_rows_per_s", 100, 3_000_001)
    assert quotas.reached(ONE, 3_000_001) is None


def test_clients_of_a_user_share_its_quota_and_the_longer_wait_is_told() -> None:
    quotas = Quotas(LANES)
    for client, user in ((ONE, "u"), (TWO, "u"), (THREE, "v")):
        quotas.join(client, "b", user)
    assert quotas.charge(ONE, 600, 0, begins=True)
    own, shared, other = (quotas.reached(client, 0) for client in (ONE, TWO, THREE))
    assert own is not None and own.key == "client_rows_per_s"
    assert shared == Reached("user_rows_per_s", 150, 2_000_001)
    assert other is None


def test_who_never_begins_a_forward_is_refused_all_the_same() -> None:
    """Its first request is judged, and then every minute's worth: it gets its rate in the long run."""
    quotas = Quotas(LANES)
    quotas.join(ONE, "a", "u")
    total = now_us = 0
    while now_us < 1_000_000_000:
        if quotas.charge(ONE, 10, now_us, begins=False):
            total += 10
        else:
            assert quotas.reached(ONE, now_us) is not None
        now_us += 10_000  # ten times the rate
    assert 100 * 1000 <= total <= 100 * (1000 + 2 + FORWARD_S) + 10


def test_a_forward_is_not_broken_off_before_it_has_taken_a_minutes_worth() -> None:
    quotas = Quotas(LANES)
    quotas.join(ONE, "a", "u")
    assert quotas.charge(ONE, 1, 0, begins=True)
    rows = 1
    while quotas.charge(ONE, 1, 0, begins=False):
        rows += 1
    assert rows == 100 * FORWARD_S
    retry_us = owing(quotas, ONE)
    assert retry_us is not None and not quotas.charge(ONE, 1, retry_us - 2, begins=False)
    assert all(quotas.charge(ONE, 1, retry_us, begins=False) for _ in range(100 * FORWARD_S))


def test_clients_of_a_user_that_begin_together_do_not_break_each_other_off() -> None:
    quotas = Quotas({"shared": LaneConfig(priority=0, user_rows_per_s=100)})
    clients = [ClientId(each) for each in range(40)]
    for client in clients:
        quotas.join(client, "shared", "u")
        assert quotas.charge(client, 1, 0, begins=True)
    assert all(quotas.charge(client, 10, 0, begins=False) for _ in range(50) for client in clients)
    assert not quotas.charge(clients[0], 1, 0, begins=True)


def test_connecting_anew_pays_no_debt_and_nothing_is_kept_of_who_has_none() -> None:
    """Neither a user's nor a client's: the next client of that user in that lane takes it over."""
    for lane in ("a", "b"):
        quotas = Quotas(LANES)
        quotas.join(ONE, lane, "u")
        assert quotas.charge(ONE, 600, 0, begins=True)
        owed = owing(quotas, ONE)
        quotas.leave(ONE)
        quotas.join(TWO, lane, "u")
        quotas.join(THREE, lane, "v")
        assert owing(quotas, TWO) == owed is not None
        assert owing(quotas, THREE) is None
        assert owing(quotas, TWO, 10_000_000) is None
        quotas.leave(TWO)
        quotas.leave(THREE)
        assert repr(quotas) == "<Quotas of 0 clients and 0 users, 0 left>"


def test_who_has_only_used_what_it_had_saved_does_not_get_it_anew() -> None:
    quotas = Quotas(LANES)
    total = 0
    for client in range(50):
        quotas.join(ClientId(client), "a", "u")
        while quotas.charge(ClientId(client), 30, 0, begins=True):
            total += 30
        quotas.leave(ClientId(client))
    assert total == 210
    assert repr(quotas) == "<Quotas of 0 clients and 0 users, 1 left>"


def test_nobody_owes_what_another_left_who_came_to_a_port_without_keys() -> None:
    """There everybody is one user, and who comes is mostly another. What a user shares is shared all the same."""
    quotas = Quotas(LANES)
    for lane, shared_us in (("a", None), ("b", 3_333_334)):
        quotas.join(ONE, lane, user_of("", here=False))
        assert quotas.charge(ONE, 800, 0, begins=True)
        quotas.leave(ONE)
        quotas.join(TWO, lane, user_of("", here=False))
        assert owing(quotas, TWO) == shared_us
        quotas.leave(TWO)


def test_of_those_who_left_whoever_owes_most_is_followed_first() -> None:
    quotas = Quotas(LANES)
    for client, rows in ((ONE, 300), (TWO, 900)):
        quotas.join(client, "a", "u")
        assert quotas.charge(client, rows, 0, begins=True)
    quotas.leave(ONE)
    quotas.leave(TWO)
    for client in (ONE, TWO, THREE):
        quotas.join(client, "a", "u")
    assert [owing(quotas, client) for client in (ONE, TWO, THREE)] == [7_000_001, 1_000_001, None]


def test_a_users_bucket_that_is_full_by_now_is_forgotten_when_the_last_client_leaves() -> None:
    """Also where nobody has looked into it since it was last used."""
    quotas = Quotas({"b": LaneConfig(priority=0, user_rows_per_s=150), "a": LANES["a"]})
    quotas.join(ONE, "b", "u")
    quotas.join(TWO, "a", "v")
    assert quotas.charge(ONE, 10, 0, begins=True)
    assert quotas.charge(TWO, 10, 900_000_000, begins=True)
    quotas.leave(ONE)
    assert repr(quotas) == "<Quotas of 1 clients and 0 users, 0 left>"


def test_another_configuration_forgives_nothing_where_the_limit_is_the_same() -> None:
    quotas = Quotas(LANES)
    for client, (lane, user) in WHOSE.items():
        quotas.join(client, lane, user)
        assert quotas.charge(client, 600, 0, begins=True)
    before = {client: quotas.reached(client, 0) for client in WHOSE}
    assert before[ONE] is not None and before[THREE] is None
    quotas.leave(TWO)
    here = {ONE: WHOSE[ONE], THREE: WHOSE[THREE]}
    same = quotas.moved_to(
        {**LANES, "b": LaneConfig(priority=7, client_rows_per_s=100, user_rows_per_s=150)}, here
    )
    same.join(TWO, "b", "v")
    assert {client: same.reached(client, 0) for client in before} == before
    assert not same.charge(ONE, 1, 0, begins=True)
    raised = same.moved_to({**LANES, "b": LaneConfig(priority=0, client_rows_per_s=101)}, here)
    assert raised.charge(ONE, 1, 0, begins=True)
    newly = same.moved_to({**LANES, "free": LANES["a"]}, here)
    assert newly.charge(THREE, 201, 0, begins=True) and not newly.charge(THREE, 1, 0, begins=True)


def test_who_has_no_quota_is_never_refused_and_costs_nothing() -> None:
    quotas = Quotas(LANES)
    quotas.join(ONE, "free", "u")
    assert quotas.charge(ONE, 1 << 40, 0, begins=True)
    assert quotas.reached(ONE, 0) is None
    assert repr(quotas) == "<Quotas of 0 clients and 0 users, 0 left>"
