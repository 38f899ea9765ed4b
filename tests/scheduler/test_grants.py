"""Places in the daemon are promised once, redeemed once, and come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from symbiosis_core.config import LaneConfig, LimitsConfig
from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.ids import Token
from symbiosis_scheduler.grants import Grants


def test_a_token_is_redeemed_once_and_brings_what_was_asked_for() -> None:
    grants = Grants(LimitsConfig(slots=3, slot_bytes=1 << 20))
    client, token = grants.issue("me", "training", 17, "posix_shm", user="me")
    tenant, grant = grants.redeem(token, 42, "me")
    assert (tenant.client, tenant.name, tenant.lane, tenant.pid) == (client, "me", "training", 42)
    assert (grant.client, grant.slots, grant.slot_bytes) == (client, 3, 1 << 20)
    with pytest.raises(RefusedError) as caught:
        grants.redeem(token, 42, "me")
    assert caught.value.code is RefusalCode.BAD_TOKEN


def test_a_token_is_its_users_alone() -> None:
    """Whoever else has seen it stays outside, and takes nothing from its user by trying."""
    grants = Grants(LimitsConfig())
    client, token = grants.issue("me", "training", 17, "zmq_tcp", user="key:alice")
    for other in ("key:bob", "tcp", ""):
        with pytest.raises(RefusedError) as caught:
            grants.redeem(token, 0, other)
        assert caught.value.code is RefusalCode.PERMISSION
    tenant, _ = grants.redeem(token, 0, "key:alice")
    assert (tenant.client, tenant.user) == (client, "key:alice")


def test_a_guessed_token_is_refused() -> None:
    with pytest.raises(RefusedError):
        Grants(LimitsConfig()).redeem(Token("0" * 32), 1, "me")


def test_promises_count_against_the_limit_and_places_come_back() -> None:
    grants = Grants(LimitsConfig(max_clients=2))
    first, token = grants.issue("a", "training", 1, "posix_shm", user="me")
    grants.issue("b", "training", 2, "posix_shm", user="me")
    with pytest.raises(BusyError) as caught:
        grants.issue("c", "training", 3, "posix_shm", user="me")
    assert caught.value.retry_after_s > 0
    grants.redeem(token, 1, "me")
    grants.release(first)
    grants.release(first)
    assert grants.issue("c", "training", 3, "posix_shm", user="me")[0] == 3


def test_who_has_a_promise_and_no_channel_is_on_its_way() -> None:
    """So many are told to whoever says whether the system has what one more takes."""
    told: list[int] = []
    grants = Grants(LimitsConfig())
    issued = [grants.issue(name, "training", 1, "posix_shm", user="me", check=told.append) for name in "abc"]
    assert told == [0, 1, 2]
    clients = [client for client, _ in issued]
    for _, token in issued:
        grants.redeem(token, 1, "me")
    grants.arrived(clients[0])
    grants.release(clients[1])
    grants.issue("d", "training", 1, "posix_shm", user="me", check=told.append)
    assert told[3:] == [1]


def test_who_is_refused_for_want_of_something_else_has_no_place_and_one_that_asks_again_has_its_own() -> None:
    def one_alone(coming: int) -> None:
        if coming:
            raise BusyError(RefusalCode.QUOTA, "nothing is left")

    grants = Grants(LimitsConfig())
    _, lost = grants.issue("a", "training", 1, "posix_shm", user="me", check=one_alone)
    with pytest.raises(BusyError, match="nothing is left"):
        grants.issue("b", "training", 2, "posix_shm", user="me", check=one_alone)
    grants.give_back(lost, "me")
    _, token = grants.issue("a", "training", 1, "posix_shm", user="me", check=one_alone)
    grants.redeem(token, 1, "me")
    with pytest.raises(RefusedError):
        grants.redeem(lost, 1, "me")


def test_a_promise_that_nobody_redeems_lapses(monkeypatch: pytest.MonkeyPatch) -> None:
    now_us = 0
    monkeypatch.setattr("symbiosis_scheduler.grants.monotonic_us", lambda: now_us)
    grants = Grants(LimitsConfig(max_clients=1))
    _, token = grants.issue("a", "training", 1, "posix_shm", user="me")
    now_us = 31_000_000
    with pytest.raises(RefusedError):
        grants.redeem(token, 1, "me")
    grants.issue("b", "training", 2, "posix_shm", user="me")


LIMITED = pytest.mark.parametrize(
    "limited",
    [
        lambda: Grants(LimitsConfig(max_clients=1)),
        lambda: Grants(LimitsConfig(), {"training": LaneConfig(priority=0, max_clients=1)}),
        lambda: Grants(LimitsConfig(), {"training": LaneConfig(priority=0, max_clients_per_user=1)}),
    ],
    ids=["all", "the lane's", "the user's"],
)


@LIMITED
def test_who_comes_back_for_the_last_place_gives_back_what_it_was_promised(limited: Callable[[], Grants]) -> None:
    """The first token is void then."""
    grants = limited()
    _, first = grants.issue("a", "training", 7, "posix_shm", user="me")
    with pytest.raises(BusyError):
        grants.issue("a", "training", 7, "posix_shm", user="me")
    grants.give_back(first, "me")
    _, second = grants.issue("a", "training", 7, "zmq_ipc", user="me")
    with pytest.raises(RefusedError):
        grants.redeem(first, 7, "me")
    grants.redeem(second, 7, "me")
    grants.give_back(second, "me")  # too late: it is in use
    with pytest.raises(BusyError):
        grants.issue("a", "training", 7, "posix_shm", user="me")


@LIMITED
def test_a_refusal_takes_nothing_back_from_another_thread_of_the_process(limited: Callable[[], Grants]) -> None:
    """It has the same name, lane, user and number; and its promise in its hand."""
    grants = limited()
    _, token = grants.issue("a", "training", 7, "posix_shm", user="me")
    for _ in range(2):
        with pytest.raises(BusyError):
            grants.issue("a", "training", 7, "posix_shm", user="me")
    assert grants.redeem(token, 7, "me")[0].name == "a"


def test_a_promise_is_given_back_by_its_user_alone() -> None:
    grants = Grants(LimitsConfig())
    _, token = grants.issue("a", "training", 7, "posix_shm", user="me")
    for other, who in ((token, "you"), (Token("another"), "me"), (Token(""), "me")):
        grants.give_back(other, who)
    grants.redeem(token, 7, "me")


def test_what_the_system_refuses_takes_nothing_back_from_another_thread_either() -> None:
    grants = Grants(LimitsConfig())
    _, token = grants.issue("a", "training", 7, "posix_shm", user="me")

    def full(coming: int) -> None:
        raise BusyError(RefusalCode.QUOTA, f"{coming} are to come", "wait", retry_after_s=1)

    with pytest.raises(BusyError, match="1 are to come"):
        grants.issue("a", "training", 7, "posix_shm", user="me", check=full)
    grants.redeem(token, 7, "me")


def test_while_there_are_places_a_process_may_be_promised_several() -> None:
    """Its threads may come at the same time, and each its own way."""
    grants = Grants(LimitsConfig())
    tokens = [grants.issue("a", "training", 7, "posix_shm", user="me")[1] for _ in range(2)]
    assert len({grants.redeem(token, 7, "me")[0].client for token in tokens}) == 2
