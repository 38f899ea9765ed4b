"""What the state counts, that it keeps nothing of what was served, and that nobody starves."""

from __future__ import annotations

from collections import Counter

from tests.scheduler.desk import Desk, arrival, held


def test_statistics_count_what_was_served_and_what_is_held() -> None:
    desk = Desk()
    desk.join(1, "inference")
    desk.join(2, "training")
    desk.arrive(1, arrival(0, rows=2), arrival(1, rows=99))
    desk.arrive(2, arrival(0, rows=6), arrival(1, op=1, rows=3))
    (plan,) = desk.turn()
    during = desk.state.statistics()
    assert (during.in_flight, during.batches.count) == (1, 0)
    assert repr(desk.state) == "<SchedulerState 2 clients, 2 queued, 1 in flight>"
    desk.now_us = 2_000_000
    desk.done(plan)
    after = desk.state.statistics()
    first, second = after.clients
    assert (first.id, first.lane, first.requests, first.rows, first.queued, first.refused) == (
        1,
        "inference",
        1,
        2,
        0,
        1,
    )
    assert (second.requests, second.rows, second.queued, second.refused) == (0, 0, 2, 0)
    inference, training, tuning = after.lanes
    assert (inference.name, inference.clients, inference.requests, inference.rows) == ("inference", 1, 1, 2)
    assert (training.queued_requests, training.queued_rows, training.priority) == (2, 5, 10)
    assert (tuning.clients, tuning.requests) == (0, 0)
    batches = after.batches
    assert (batches.count, batches.requests, batches.rows, batches.clients, batches.busy_s) == (1, 2, 6, 2, 2.0)


def test_a_lane_remembers_what_clients_that_left_were_served() -> None:
    desk = Desk()
    desk.join(1)
    desk.arrive(1, arrival(rows=3))
    desk.finish()
    desk.leave(1)
    statistics = desk.state.statistics()
    assert statistics.clients == ()
    assert (statistics.lanes[1].requests, statistics.lanes[1].rows) == (1, 3)


def test_time_with_several_plans_in_flight_counts_once() -> None:
    desk = Desk(max_in_flight=2)
    desk.join(1)
    desk.arrive(1, arrival(rows=12))
    first, second = desk.turn()
    desk.now_us = 1_000_000
    desk.done(first)
    (third,) = desk.turn()
    for plan in (second, third):
        desk.now_us += 1_000_000
        desk.done(plan)
    desk.now_us += 5_000_000
    assert desk.state.statistics().batches.busy_s == 3.0


def test_a_request_that_ageing_puts_first_chunk_by_chunk_counts_as_one() -> None:
    desk = Desk()
    desk.join(1, "training")
    desk.join(2, "inference")
    desk.arrive(1, arrival(rows=12))
    desk.now_us = 100
    for generation in range(8):
        desk.arrive(2, arrival(op=1, generation=generation))
        (plan,) = desk.turn()
        desk.done(plan)
        if plan.lead.client == 1:
            (plan,) = desk.turn()
            desk.done(plan)
    training = desk.state.statistics().lanes[1]
    assert (training.requests, training.aged) == (1, 1)


# -- memory and starvation -------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_what_was_served() -> None:
    desk = Desk()

    def serve(clients: range) -> None:
        for client in clients:
            desk.join(client, ("inference", "training", "tuning")[client % 3])
        for generation in range(5):
            for client in clients:
                slots = (arrival(slot, generation, (client + slot) % 3, 1 + slot * 9) for slot in range(4))
                desk.arrive(client, *slots)
            desk.leave(clients[generation])
            desk.finish()
            desk.now_us += 30
        for client in clients:
            desk.leave(client)

    empty = held(desk.state)
    for round_number in range(4):
        serve(range(round_number * 9, round_number * 9 + 9))
        assert held(desk.state) == empty
    desk.join(1000)
    desk.arrive(1000, arrival())
    assert held(desk.state) > empty  # the measure sees what is held


def test_training_is_served_within_a_bound_while_inference_never_ends() -> None:
    desk = Desk()
    desk.join(0, "training")
    desk.arrive(0, arrival(op=0, rows=12))
    for client in (1, 2):
        desk.join(client, "inference")
        desk.arrive(client, arrival(op=client))
    served: Counter[int] = Counter()
    for batches in range(1, 1000):
        (plan,) = desk.turn()
        desk.now_us += 10
        for answer in desk.done(plan):
            served[answer.client] += 1
            if answer.client:
                desk.arrive(answer.client, arrival(op=answer.client, generation=batches))
        if served[0]:
            break
    assert 5 <= batches <= 5 + 3 * 3  # aged after five batches; then a chunk for every round of two others
