"""One contender as a process: opens its model, says that it is ready, and carries out one order after the other.

    python -m symbiosis_bench.end_to_end.worker plain --folder FOLDER ...
    python -m symbiosis_bench.end_to_end.worker split --folder FOLDER --address ipc:///... --lane training ...

Between two orders it waits in a queue without looking at anything, so that the others have the machine.
"""

from __future__ import annotations

import argparse
import queue
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from symbiosis_bench.end_to_end.messages import (
    Began,
    Decode,
    Judge,
    NoRoom,
    Order,
    Peak,
    Said,
    Train,
    read_order,
)
from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter

__all__ = ["arguments", "carry_out", "main", "no_room_told"]


def main() -> None:
    """Serves orders until standard input ends."""
    reporter = Reporter()
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    listen(orders.put)
    given = arguments().parse_args()

    from symbiosis_bench.end_to_end.contender import Contender, open_plain, open_split

    with no_room_told(reporter.tell):
        base = (
            open_split(given.address, given.lane, given.name, given.cut, given.device, capture=given.capture)
            if given.kind == "split"
            else open_plain(given.folder, given.dtype, given.device)
        )
        contender = Contender(base, given.folder, given.client)
        reporter.tell(contender.ready())
    while order := orders.get():  # whoever found no room is ended instead
        with no_room_told(reporter.tell):
            carry_out(contender, read_order.decode(order), reporter.tell)


@contextmanager
def no_room_told(tell: Callable[[Said], object]) -> Iterator[None]:
    """Tells the parent where memory on the GPU has run out, and goes on."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        traceback.print_exc()
        tell(NoRoom())


def carry_out(contender: Any, order: Order, tell: Callable[[Said], object]) -> None:
    """Does what was ordered, and tells the answer."""
    from symbiosis_bench.end_to_end.peak import peak
    from symbiosis_bench.end_to_end.work import decode, judge, train

    def began() -> None:
        tell(Began())

    match order:
        case Train():
            tell(train(contender, order, began))
        case Decode():
            tell(decode(contender, order, began))
        case Judge():
            tell(judge(contender, order))
        case Peak():
            tell(peak(contender, order))


def arguments() -> argparse.ArgumentParser:
    """Returns the parser of what every worker is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("plain", "split", "forked", "copied"))
    parser.add_argument("--folder", required=True, help="the base; a split worker reads the tokenizer there")
    parser.add_argument("--client", type=int, default=0, help="which adapter and which text")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--address", default="")
    parser.add_argument("--lane", default="training")
    parser.add_argument("--name", default="")
    parser.add_argument("--cut", default="", help="none: the library's default")
    parser.add_argument("--capture", action="store_true", help="decode steps are captured")
    parser.add_argument("--members", type=int, default=1, help="of a nursery: how many processes it forks")
    return parser


if __name__ == "__main__":
    main()
