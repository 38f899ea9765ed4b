"""Lower lanes leave a core while the first is at work; its only client stays there, and several do not."""

from __future__ import annotations

import pytest

from symbiosis_core.ids import ClientId
from symbiosis_core.spared_core import Place
from symbiosis_scheduler.core_sharing import CoreSharing

LEAVE, STAY = Place(3, leave=True), Place(3, leave=False)
DECODES, ALSO_DECODES, TRAINS = ClientId(1), ClientId(2), ClientId(3)
LONG_US = 100_001


@pytest.fixture
def sharing() -> CoreSharing:
    return CoreSharing(3)


def first(
    sharing: CoreSharing, now_us: int, *clients: ClientId
) -> tuple[Place | None, dict[ClientId, Place | None]]:
    place, asked = sharing.launched(set(clients), now_us, lower=False, beside=False)
    return place, dict(asked)


def lower(sharing: CoreSharing, now_us: int, *, beside: bool) -> dict[ClientId, Place | None]:
    place, asked = sharing.launched({TRAINS}, now_us, lower=True, beside=beside)
    assert place is None
    return dict(asked)


def settled(sharing: CoreSharing) -> int:
    """One client has decoded by itself for a while, beside another that trains; returns when."""
    first(sharing, 0, DECODES)
    lower(sharing, LONG_US - 10, beside=True)
    first(sharing, LONG_US, DECODES)
    return LONG_US


def test_who_is_computed_beside_is_asked_to_leave_the_core_once(sharing: CoreSharing) -> None:
    assert lower(sharing, 0, beside=True) == {TRAINS: LEAVE}
    assert lower(sharing, 10, beside=True) == {}


def test_it_may_come_back_when_the_first_lane_is_done(sharing: CoreSharing) -> None:
    lower(sharing, 0, beside=True)
    assert lower(sharing, 10, beside=False) == {TRAINS: None}
    assert lower(sharing, 20, beside=False) == {}


def test_who_decodes_by_itself_stays_on_the_core_and_so_does_who_serves_it(sharing: CoreSharing) -> None:
    first(sharing, 0, DECODES)
    lower(sharing, LONG_US - 10, beside=True)
    assert first(sharing, LONG_US, DECODES) == (STAY, {DECODES: STAY})
    assert first(sharing, LONG_US + 10, DECODES) == (STAY, {})


def test_it_goes_where_it_likes_once_nobody_is_computed_beside_it(sharing: CoreSharing) -> None:
    now_us = settled(sharing)
    assert first(sharing, now_us + 100_000, DECODES) == (None, {DECODES: None})


def test_several_that_decode_are_not_crowded_on_one_core(sharing: CoreSharing) -> None:
    now_us = settled(sharing)
    assert first(sharing, now_us + 10, ALSO_DECODES) == (None, {})
    assert first(sharing, now_us + 20, DECODES) == (None, {DECODES: None})
    assert first(sharing, now_us + 30, DECODES, ALSO_DECODES) == (None, {})


def test_without_lower_lanes_nothing_is_asked(sharing: CoreSharing) -> None:
    assert [first(sharing, now_us, DECODES) for now_us in (0, LONG_US, 2 * LONG_US)] == [(None, {})] * 3


def test_with_one_core_nothing_is_asked() -> None:
    sharing = CoreSharing(None)
    assert lower(sharing, 0, beside=True) == {}
    first(sharing, 10, DECODES)
    lower(sharing, LONG_US, beside=True)
    assert first(sharing, LONG_US + 10, DECODES) == (None, {})


def test_who_comes_after_one_that_has_left_is_asked_for_itself(sharing: CoreSharing) -> None:
    lower(sharing, 0, beside=True)
    sharing.left(TRAINS)
    assert lower(sharing, 10, beside=True) == {TRAINS: LEAVE}
