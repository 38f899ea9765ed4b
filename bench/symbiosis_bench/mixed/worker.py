"""One client of the mixed load as a process: answers prompts as they arrive, or trains until told to stop.

python -m symbiosis_bench.mixed.worker split --folder FOLDER --address ipc:///... --lane inference ...
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from symbiosis_bench.end_to_end.worker import arguments
from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter
from symbiosis_bench.mixed.messages import Serve, Served, Trained, TrainOn, read_order

__all__ = ["main"]


def main() -> None:
    """Serves orders until standard input ends."""
    reporter = Reporter()
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    listen(orders.put)
    given = arguments().parse_args()

    from symbiosis_bench.end_to_end.contender import Contender, open_split

    base = open_split(given.address, given.lane, given.name, given.cut, given.device, capture=given.capture)
    contender = Contender(base, given.folder, given.client)
    contender.threads(1)  # the daemon and the other clients want the cores, too
    reporter.tell(contender.ready())
    while True:
        order = read_order.decode(orders.get())
        if isinstance(order, Serve):
            reporter.tell(_serve(contender, order))
        elif isinstance(order, TrainOn):
            reporter.tell(_train(contender, order, orders.empty))


def _serve(contender: Any, order: Serve) -> Served:
    """Waits for each prompt to arrive; one that arrives while another is answered waits its turn."""
    from symbiosis_bench.end_to_end.work import TokenClock, generate

    contender.model.eval()
    arrived, began, tokens = [], [], []
    for after_s in order.arrivals_s:
        due_s = order.start_s + after_s
        time.sleep(max(0.0, due_s - time.perf_counter()))
        clock = TokenClock(contender, lambda: None)
        began.append(time.perf_counter())
        generate(contender, order.tokens, clock)
        arrived.append(due_s)
        tokens.append(tuple(clock.stamps_s))
    return Served(tuple(arrived), tuple(began), tuple(tokens))


def _train(contender: Any, order: TrainOn, go_on: Callable[[], bool]) -> Trained:
    from symbiosis_bench.end_to_end.work import optimizer_of, step

    contender.model.train()
    optimizer, stamps_s, number = optimizer_of(contender), [], 0
    while go_on():
        step(contender, optimizer, number, order.shape)
        stamps_s.append(time.perf_counter())
        number += 1
    return Trained(tuple(stamps_s))


if __name__ == "__main__":
    main()
