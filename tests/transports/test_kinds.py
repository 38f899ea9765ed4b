"""Who learns together and who by itself, and that what comes next is what came the last time."""

from __future__ import annotations

import pytest

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_transports.calls import Call
from symbiosis_transports.habits import SHORT_NS
from symbiosis_transports.kinds import Fixed, Kind, Kinds

CALL = Call(OpId(3), Direction.FORWARD, 300, 0, 64)
WIDTHS = ((3, 1000, 1000), (4, 3000, 1000), (5, 1000, 3000))


def announced(kinds: Kinds, call: Call, fill_ns: int) -> bool:
    """Whether the call that comes now was announced. An announcement saves four fifths of the wait."""
    early = kinds.lead_us() > 0
    notice = kinds.published(call).notice
    assert notice is not None
    notice.answered(fill_ns, 10_000 if early else 50_000)
    return early


def test_kinds_of_call_have_ways_of_their_own_unless_as_many_bytes_come_and_go() -> None:
    kinds = Kinds(None)
    assert kinds.published(CALL) is kinds.published(CALL._replace(rows=500, in_offset=64, memo=7))
    others = [CALL._replace(rows=700), CALL._replace(op=OpId(4)), CALL._replace(direction=Direction.BACKWARD)]
    found = [kinds.published(each) for each in (CALL, *others)]
    assert len({id(kind.notice) for kind in found}) == 4
    assert len({id(kind.way) for kind in found}) == 3, "blocks that do the same are waited for alike"
    assert {kind.way.budget_ns for kind in found} == {SHORT_NS}


def test_functions_of_other_widths_are_waited_for_in_their_own_way() -> None:
    kinds = Kinds(None)
    calls = [CALL._replace(op=OpId(op), in_bytes=given, out_bytes=got) for op, given, got in WIDTHS]
    assert len({id(kinds.published(call).way) for call in calls}) == len(WIDTHS)


def test_the_kind_that_followed_last_time_is_the_one_that_is_announced() -> None:
    kinds, large, small = Kinds(None), CALL, CALL._replace(op=OpId(4), rows=1)
    for _ in range(50):
        announced(kinds, large, 70_000)
        announced(kinds, small, 1000)
    assert kinds.lead_us() > 0
    kinds.published(large)
    assert kinds.lead_us() == 0


def test_a_kind_is_announced_after_what_it_came_after_and_not_after_another() -> None:
    kinds, large = Kinds(None), CALL
    before, other = CALL._replace(op=OpId(4), rows=1), CALL._replace(op=OpId(5), rows=1)
    for _ in range(50):
        for call, fill_ns in ((before, 1000), (large, 70_000), (other, 1000), (other, 1000)):
            announced(kinds, call, fill_ns)
    assert not announced(kinds, before, 1000)
    assert announced(kinds, large, 70_000)
    assert not announced(kinds, before, 1000), "what came after the large one is another small one"
    assert announced(kinds, large, 70_000)


def test_kinds_that_never_come_again_are_not_kept_for_ever() -> None:
    """Nor those that were answered before anybody waited for them, nor by those that they came after."""
    kinds, first = Kinds(None), CALL._replace(op=OpId(0))
    kept = kinds.published(first)
    for op in range(1, 100_000):
        kinds.published(CALL._replace(op=OpId(op)))
    assert len(kinds._seen) <= 4096
    assert kinds.published(first) is not kept
    chain = 0  # from a kind that a slot, unused since, may still have
    kind: Kind | None = kept
    while kind is not None and chain <= 4096:
        chain, kind = chain + 1, kind.following
    assert chain <= 4096, "kinds that were let go are kept by those before them"


@pytest.mark.parametrize("budget_ns", [0, 20_000])
def test_who_has_said_how_long_to_look_learns_and_announces_nothing(budget_ns: int) -> None:
    kinds = Kinds(Fixed(budget_ns))
    kind = kinds.published(CALL)
    kind.way.waited(10_000_000)
    assert (kind.way.budget_ns, kind.notice) == (budget_ns, None)
    assert kinds.published(CALL._replace(op=OpId(4))) is kind
    assert kinds.lead_us() == 0
