"""A server as a process: the daemon's end of one contender.

python -m symbiosis_bench.transports.server posix_shm --endpoint PATH --slot-bytes 8388608 ...
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import uvloop

from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter
from symbiosis_bench.transports.doorbell import serve_doorbells
from symbiosis_bench.transports.messages import Ready, Spin, Tell, read_server_order
from symbiosis_bench.transports.raw_zmq import RawZmqServer
from symbiosis_bench.transports.service import ALIGNMENT, Service
from symbiosis_bench.transports.work import prepare_products
from symbiosis_bench.transports.yardsticks import RAW_ZMQ, RAW_ZMQ_SHM, WAKE_FLOORS
from symbiosis_transports.registry import transport
from symbiosis_transports.waiting import Watch

__all__ = ["main"]


def main() -> None:
    """Serves until standard input ends."""
    reporter = Reporter()
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--slot-bytes", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--linear", action="store_true", help="there will be products")
    given = parser.parse_args()
    if given.linear and given.kind not in WAKE_FLOORS:
        prepare_products()
    if given.kind in WAKE_FLOORS:
        listen(lambda line: None)
        serve_doorbells(given.endpoint, lambda: reporter.tell(Ready(given.endpoint)))
    elif given.kind in (RAW_ZMQ, RAW_ZMQ_SHM):
        _raw(RawZmqServer(given.endpoint, given.slot_bytes, given.clients), reporter)
    else:
        _transport(given.kind, given.endpoint, given.slot_bytes, reporter)


def _raw(server: RawZmqServer, reporter: Reporter) -> None:
    def told(line: bytes) -> None:
        if isinstance(read_server_order.decode(line), Tell):
            reporter.tell(server.tally(time.process_time_ns()))

    listen(told)
    reporter.tell(Ready(server.endpoint))
    server.serve()


def _transport(name: str, endpoint: str, slot_bytes: int, reporter: Reporter) -> None:
    """Runs a listener, and carries orders over to its thread."""
    loop = uvloop.new_event_loop()
    service = Service(loop, 2 * slot_bytes + ALIGNMENT)

    def told(line: bytes) -> None:
        match read_server_order.decode(line):
            case Spin(spin_us, learns):
                service.watch = Watch(spin_us, learns=learns)
            case Tell():
                reporter.tell(service.tally())

    def failed(_: object, context: dict[str, Any]) -> None:
        broken.append(context.get("exception") or RuntimeError(context["message"]))
        loop.stop()

    broken: list[BaseException] = []
    loop.set_exception_handler(failed)
    listen(_over(loop, told))
    transport(name).listen(loop, endpoint, service)
    loop.call_soon(lambda: reporter.tell(Ready(endpoint)))
    loop.run_forever()
    raise broken[0]  # it stops for nothing else


def _over(loop: uvloop.Loop, hear: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def carry(line: bytes) -> None:
        loop.call_soon_threadsafe(hear, line)

    return carry


if __name__ == "__main__":
    main()
