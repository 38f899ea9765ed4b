"""Who is let in, and what becomes of those who are on their way."""

from __future__ import annotations

import os

import pytest

from symbiosis_core.config import DaemonConfig, LimitsConfig
from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.ids import ClientId, Token
from symbiosis_scheduler.decisions.users import user_of
from symbiosis_scheduler.frozen.lending import UNASKED
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.reception import Reception
from symbiosis_transports.ports import Peer

ME = Peer(pid=os.getpid(), uid=os.getuid())
STRANGER = Peer(pid=1, uid=os.getuid() + 4242)


@pytest.fixture
def grants() -> Grants:
    return Grants(LimitsConfig(max_clients=1))


@pytest.fixture
def reception(grants: Grants) -> Reception:
    return Reception(grants, DaemonConfig().lanes, lambda _: UNASKED)


def promised(grants: Grants, lane: str = "training") -> tuple[ClientId, Token]:
    return grants.issue("me", lane, ME.pid, "posix_shm", user=user_of("", here=True))


def test_who_has_come_in_is_no_newcomer_and_keeps_the_place(grants: Grants, reception: Reception) -> None:
    client, token = promised(grants)
    grant = reception.redeem(token, ME)
    assert (grant.client, reception.lanes_promised) == (client, {"training"})
    tenant, its, here = reception.attached(client)
    assert (tenant.client, its, here) == (client, grant, True)
    assert reception.lanes_promised == set()
    with pytest.raises(BusyError):
        promised(grants)
    reception.left(client)
    promised(grants)


def test_of_whom_no_channel_comes_the_place_is_free_again(grants: Grants, reception: Reception) -> None:
    client, token = promised(grants)
    reception.redeem(token, ME)
    reception.abandoned(client)
    assert reception.lanes_promised == set()
    promised(grants)


def test_a_lane_that_went_between_promise_and_arrival_is_told_and_the_place_is_free(
    grants: Grants, reception: Reception
) -> None:
    _, token = promised(grants)
    reception.moved_to(["inference"])
    with pytest.raises(RefusedError, match="no lane 'training' any more") as refused:
        reception.redeem(token, ME)
    assert refused.value.code is RefusalCode.UNKNOWN_LANE and reception.lanes_promised == set()
    promised(grants, "inference")


def test_who_is_closed_lets_nobody_in(grants: Grants, reception: Reception) -> None:
    _, token = promised(grants)
    reception.close()
    with pytest.raises(RefusedError) as refused:
        reception.redeem(token, ME)
    assert refused.value.code is RefusalCode.DRAINING


def test_another_user_gets_neither_a_place_nor_weights(grants: Grants, reception: Reception) -> None:
    """Nor does the stranger take anything from whose token it is."""
    _, token = promised(grants)
    for ask in (lambda: reception.redeem(token, STRANGER), lambda: reception.lend(STRANGER, "")):
        with pytest.raises(RefusedError, match="may not use the daemon") as refused:
            ask()
        assert refused.value.code is RefusalCode.PERMISSION
    reception.redeem(token, ME)


def test_weights_that_are_withheld_are_refused_with_the_reason(reception: Reception) -> None:
    with pytest.raises(RefusedError) as refused:
        reception.lend(ME, "")
    assert refused.value.code is RefusalCode.NOT_LENT and UNASKED.reason in str(refused.value)
