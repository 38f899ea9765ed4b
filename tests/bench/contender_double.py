"""A contender without a model, for tests: answers every order at once, rightly, or wrongly as it is told.

python tests/bench/contender_double.py [--losses-times 1.1] [--wrong-token-at 3] [--deaf-after 2] [--step-s 0.01]
"""

from __future__ import annotations

import argparse
import queue

from symbiosis_bench.end_to_end.messages import (
    Answer,
    Began,
    Decode,
    Decoded,
    Judge,
    Judged,
    NoRoom,
    Order,
    Peaked,
    Ready,
    Train,
    Trained,
    read_order,
)
from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter


def main() -> None:
    reporter = Reporter()
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    listen(orders.put)
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses-times", type=float, default=1.0)
    parser.add_argument("--wrong-token-at", type=int, default=-1)
    parser.add_argument("--step-s", type=float, default=0.01)
    parser.add_argument("--adapter", default="the same")
    parser.add_argument("--dies-at", type=int, default=0, help="which order it does not survive")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--no-room-at", type=int, help="which order finds none; 0: the model itself")
    parser.add_argument("--never-begins", action="store_true", help="it is done, and has not said that it began")
    given = parser.parse_args()
    threads = given.torch_threads
    ready = Ready(torch_threads=threads, attention="none", dtype="float32", adapter=given.adapter)
    reporter.tell(NoRoom() if given.no_room_at == 0 else ready)
    number = 0
    while order := orders.get():
        if (number := number + 1) == given.dies_at:
            raise SystemExit("this order was too much")
        if number == given.no_room_at:
            reporter.tell(NoRoom())
            continue
        if not given.never_begins:
            reporter.tell(Began())
        reporter.tell(answer(read_order.decode(order), given))


def answer(order: Order, given: argparse.Namespace) -> Answer:
    match order:
        case Train():
            losses = tuple((3 - 0.1 * step) * given.losses_times for step in range(order.steps))
            return Trained(losses=losses, stamps_s=stamps_s(order.steps + 1, given))
        case Decode():
            return Decoded(tokens=tokens(order.tokens, given), stamps_s=stamps_s(order.tokens, given))
        case Judge():
            places = len(order.tokens)
            return Judged(choices=tokens(places, given), margins=(1.0,) * places, surprise=1.0)
        case _:
            return Peaked(activations=1 << 20, arena=1 << 16, process=1 << 30, losses=(3.0, 2.9))


def tokens(count: int, given: argparse.Namespace) -> tuple[int, ...]:
    return tuple(99 if place == given.wrong_token_at else place for place in range(count))


def stamps_s(count: int, given: argparse.Namespace) -> tuple[float, ...]:
    return tuple(100 + given.step_s * place for place in range(count))


if __name__ == "__main__":
    main()
