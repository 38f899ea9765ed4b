"""Plain contenders that one process forks after it has loaded the base, so that they share its pages.

    python -m symbiosis_bench.end_to_end.nursery forked --members 4 --folder FOLDER ...

`copied` gives each fork its own copy of the weights: four processes that share nothing but libraries.

The nursery passes every order to all of its members and every answer to the parent, with the member's number. It
opens the base with one thread: OpenMP's threads do not survive a fork, and a process that had none forks safely.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
from typing import Any, Final, NoReturn

import msgspec
import torch

from symbiosis_bench.end_to_end.contender import Contender, open_plain, own_copy
from symbiosis_bench.end_to_end.messages import Of, Said, read_order
from symbiosis_bench.end_to_end.worker import arguments, carry_out
from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter

__all__ = ["main"]

_ANSWER_BYTES: Final = 1 << 20


def main() -> None:
    """Forks, then passes orders and answers on until standard input ends."""
    reporter = Reporter()
    given = arguments().parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = open_plain(given.folder, given.dtype, given.device)
    # Datagrams that arrive whole and in order, from all members in one place.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipes: list[int] = []
    for client in range(given.members):
        pipes.append(_fork(base, given, client, threads, theirs, pipes))
    theirs.close()
    signal.signal(signal.SIGCHLD, _lost)
    listen(lambda line: [os.write(pipe, line + b"\n") for pipe in pipes])
    while answer := ours.recv(_ANSWER_BYTES):
        reporter.pass_on(answer)


def _fork(base: Any, given: Any, client: int, threads: int, answers: socket.socket, others: list[int]) -> int:
    """Returns where the new member reads its orders. The end of this process ends that pipe, and so the member."""
    read, write = os.pipe()
    if os.fork() == 0:
        for pipe in (write, *others):
            os.close(pipe)
        torch.set_num_threads(threads)
        _serve(own_copy(base) if given.kind == "copied" else base, given.folder, client, read, answers)
    os.close(read)
    return write


def _serve(base: Any, folder: str, client: int, orders_from: int, answers: socket.socket) -> NoReturn:
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    listen(orders.put, orders_from)

    def tell(message: Said) -> None:
        answers.send(msgspec.json.encode(Of(client, message)))

    contender = Contender(base, folder, client)
    tell(contender.ready())
    while True:
        carry_out(contender, read_order.decode(orders.get()), tell)


def _lost(*_: object) -> NoReturn:
    raise SystemExit("a forked process has ended")


if __name__ == "__main__":
    main()
