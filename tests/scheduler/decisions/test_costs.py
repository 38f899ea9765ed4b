"""Cost curves follow what batches take, whatever single ones did, and can be written down and taken up again."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest

from symbiosis_core.ids import BaseId, ClientId, Generation, OpId, SlotIndex
from symbiosis_core.segments import Fn, Node, Segment, SegmentSpec
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec, Plane
from symbiosis_scheduler.decisions.costs import Costs, Curve, Point, cost_key
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request

FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD


def op(id: int, name: str) -> OpSpec:
    return OpSpec(OpId(id), OpKind.LINEAR, (name,), 8, (8,), DType.FLOAT32)


def test_nothing_is_expected_before_anything_was_measured() -> None:
    costs = Costs()
    costs.introduce(op(0, "a"), OpId(0))
    assert costs.expected_us(OpId(0), FORWARD, 4) is None
    assert costs.likely_us(OpId(0), FORWARD, 64) > 3 * costs.likely_us(OpId(0), FORWARD, 1) > 0, "a guess"


def test_a_curve_comes_to_what_batches_take_though_one_in_ten_takes_ten_times_as_long() -> None:
    dice, curve = random.Random(3), Curve()
    for _ in range(2000):
        rows = dice.choice([1, 2, 4, 8, 64, 256])
        curve.learn(rows, (1000 + 20 * rows) * (10 if dice.random() < 0.1 else dice.uniform(0.9, 1.1)))
    for rows in (1, 2, 4, 8, 64, 256):
        assert curve.expected_us(rows) == pytest.approx(1000 + 20 * rows, rel=0.1)
    assert curve.expected_us(128) == pytest.approx(1000 + 20 * 128, rel=0.1), "between two points it is straight"


def test_a_first_batch_that_was_slow_is_forgotten_soon() -> None:
    curve = Curve()
    for us in (10_000, *[1000] * 12):
        curve.learn(1, us)
    assert curve.expected_us(1) == pytest.approx(1000, rel=0.1)


def test_a_curve_follows_a_machine_that_became_slower() -> None:
    curve = Curve()
    for us in (*[1000] * 500, *[2000] * 100):
        curve.learn(4, us)
    assert curve.expected_us(4) == pytest.approx(2000, rel=0.05)


def test_beyond_what_was_measured_few_rows_cost_as_one_and_many_cost_by_the_row() -> None:
    curve = Curve()
    curve.learn(1, 1000)
    eight, many, twice = curve.expected_us(8), curve.expected_us(512), curve.expected_us(1024)
    assert eight is not None and many is not None
    assert eight < 1500
    assert twice == pytest.approx(2 * many)


def test_rows_never_seen_do_not_make_a_curve_fall() -> None:
    curve = Curve()
    for rows in (1, 16, 300):
        curve.learn(rows, 100 + 10 * rows)
    expected = [curve.expected_us(rows) for rows in range(1, 600)]
    assert all(before <= after for before, after in pairwise([us for us in expected if us is not None]))
    assert len([us for us in expected if us is not None]) == 599


def test_an_op_that_was_never_run_is_answered_for_by_the_others_of_its_direction() -> None:
    costs = Costs()
    costs.learn(OpId(0), FORWARD, 4, 700)
    assert costs.expected_us(OpId(9), FORWARD, 4) == 700
    assert costs.expected_us(OpId(9), BACKWARD, 4) is None
    assert costs.likely_us(OpId(9), FORWARD, 4) == 700


def test_ops_of_another_base_do_not_answer_for_an_op_and_are_written_down_apart() -> None:
    costs, other = Costs(), BaseId(1)
    costs.introduce(op(0, "a"), OpId(0))
    costs.introduce(op(0, "a"), OpId(1), other)
    costs.learn(OpId(0), FORWARD, 4, 700)
    assert costs.expected_us(OpId(1), FORWARD, 4) is None
    costs.learn(OpId(1), FORWARD, 4, 50)
    again = Costs([costs.written_down(), costs.written_down(other)])
    again.introduce(op(0, "a"), OpId(5), other)
    assert again.expected_us(OpId(5), FORWARD, 4) == 50


def test_curves_are_taken_up_again_by_content_whatever_the_numbers_are() -> None:
    before = Costs()
    before.introduce(op(0, "a"), OpId(0))
    before.introduce(op(1, "b"), OpId(1))
    before.learn(OpId(1), BACKWARD, 4, 700)
    written = msgspec.json.encode(before.written_down())
    saved = msgspec.json.decode(written, type=dict[str, tuple[tuple[Point, ...], ...]])
    after = Costs([saved])
    assert after.expected_us(OpId(0), BACKWARD, 4) is None
    after.introduce(op(0, "b"), OpId(0))
    assert after.expected_us(OpId(0), BACKWARD, 4) == 700
    assert after.written_down() == saved, "and what nobody asked for this time is kept for the next"


def test_segments_are_told_apart_by_content() -> None:
    planes = [(Plane(8, DType.FLOAT32),), (Plane(16, DType.FLOAT32),)]
    keys = [
        cost_key(SegmentSpec(OpId(number), Segment(inputs, (), (), (0,)), inputs, "equal names"))
        for number, inputs in enumerate([*planes, *planes])
    ]
    assert keys[:2] == keys[2:] and keys[0] != keys[1]


def with_loss(number: int) -> SegmentSpec:
    hidden, right, logits, loss = (Plane(width, DType.FLOAT32) for width in (8, 1, 128, 1))
    nodes = (Node(Fn.LINEAR, (0,), op=0), Node(Fn.CROSS_ENTROPY, (2, 1)))
    segment = Segment((hidden, right), (), nodes, (3,))
    return SegmentSpec(OpId(number), segment, (hidden, right, logits, loss), "a loss")


def batch(memo: int, direction: Direction = FORWARD) -> Plan:
    each = Request(ClientId(1), SlotIndex(0), Generation(1), "x", OpId(0), direction, 4, 0, 0, 4096, memo)
    return Plan(OpId(0), direction, (Part(each, 0, 4),))


def test_a_loss_on_which_somebody_trains_has_a_curve_of_its_own() -> None:
    """Slopes take time, too: between the two neither would be foretold."""
    known = Known()
    known.introduce(with_loss(0), OpId(0), BaseId(0))
    known.finished(batch(memo=7), 3000, 0)
    assert known.costs.expected_us(OpId(0), FORWARD, 4) == 3000, "until it was measured without"
    for us in range(100):
        known.finished(batch(memo=0), 1000, us)
        known.finished(batch(memo=7), 3000, us)
        known.finished(batch(memo=7, direction=BACKWARD), 500, us)
    for costs in (known.costs, again(known.costs)):
        kept = [costs.expected_us(OpId(0), FORWARD, 4, kept=each) for each in (False, True)]
        assert kept == pytest.approx([1000, 3000])
        assert costs.expected_us(OpId(0), BACKWARD, 4, kept=True) == pytest.approx(500)


def test_what_else_is_kept_costs_nothing_and_shares_its_curve() -> None:
    """Values of the forward are there anyway."""
    known = Known()
    known.introduce(op(0, "a"), OpId(0), BaseId(0))
    known.finished(batch(memo=7), 1000, 0)
    known.finished(batch(memo=0), 1000, 1)
    assert known.costs.written_down()["a"][0][0].seen == 2


def test_curves_of_a_daemon_that_had_one_for_both_are_taken_up() -> None:
    key = cost_key(with_loss(0))
    costs = Costs([{key: ((Point(4, 700, 9),), ())}])
    costs.introduce(with_loss(0), OpId(0))
    assert [costs.expected_us(OpId(0), FORWARD, 4, kept=each) for each in (False, True)] == [700, 700]


def again(costs: Costs) -> Costs:
    """Returns the costs of the next daemon."""
    taken_up = Costs([costs.written_down()])
    taken_up.introduce(with_loss(0), OpId(0))
    return taken_up


def test_a_batch_that_failed_teaches_nothing() -> None:
    known = Known()
    each = Request(ClientId(1), SlotIndex(0), Generation(1), "x", OpId(0), Direction.FORWARD, 1, 0, 0, 4096)
    plan = Plan(OpId(0), Direction.FORWARD, (Part(each, 0, 1),))
    known.failed(plan, 9000)
    assert known.costs.expected_us(OpId(0), Direction.FORWARD, 1) is None
    known.finished(plan, 100, 9100)
    assert known.costs.expected_us(OpId(0), Direction.FORWARD, 1) == 100


def test_it_is_known_how_far_curves_are_off() -> None:
    costs = Costs()
    costs.learn(OpId(0), Direction.FORWARD, 1, 1000)
    assert costs.error == 0, "nothing was expected"
    for _ in range(1000):
        costs.learn(OpId(0), Direction.FORWARD, 1, 1000)
    costs.learn(OpId(0), Direction.FORWARD, 1, 1500)
    assert 0 < costs.error < 0.01
    for step in range(2000):
        costs.learn(OpId(0), Direction.FORWARD, 1, (1000, 3000)[step % 2])
    assert costs.error > 0.3
