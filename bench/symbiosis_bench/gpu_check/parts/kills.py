"""kill -9 of clients, then of the daemon: another client is served meanwhile, and all device memory comes back.

At the moment of their death the victims have calls in flight, and work of their own queued on the device.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import torch

from symbiosis_bench.gpu_check.parts.asked import options, source_of, tell
from symbiosis_bench.gpu_check.parts.server import START_S, serving
from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction, DType
from symbiosis_transports.cuda.seam import CudaSource
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.ports import Call
from symbiosis_transports.tensors import slot_memory, view_rows
from symbiosis_transports.testing import ADD_ONE, NEVER

_KILLS: Final = 3
_QUEUED: Final = 200
_BACK_S: Final = 30.0
_SLOT_BYTES: Final = 4 << 20
_SLACK_BYTES: Final = 8 << 20
"""Of what a driver keeps for itself. An arena has twice as much, so one that is lost is found."""


def holder(source: CudaSource, endpoint: str, told: Connection) -> None:
    """Publishes into all slots but one, keeps the device busy with the last, and waits to be killed."""
    channel = CudaIpc(source).connect(endpoint, Token("good"), START_S)
    slots = [channel.lease_nowait() for _ in range(channel.slots)]
    for slot in slots[1:]:
        channel.publish(slot, Call(NEVER, Direction.FORWARD, 64, 0, 1 << 19))
    channel.publish(slots[0], Call(ADD_ONE, Direction.FORWARD, 64, 0, 1 << 19))
    channel.wait(slots[0], 60)
    y_1N = view_rows(slot_memory(channel, slots[0]), 1 << 20, 1, 3 << 20, DType.UINT8)
    told.send("holding")
    while True:
        for _ in range(_QUEUED):
            y_1N.add_(1)
        if y_1N.is_cuda:
            torch.cuda.current_stream().synchronize()


def bystander(source: CudaSource, endpoint: str, told: Connection) -> None:
    """Calls and looks at its answers until the daemon goes; tells how many were right each time it is asked."""
    channel = CudaIpc(source).connect(endpoint, Token("good"), START_S)
    slot, right, wrong = channel.lease_nowait(), 0, 0
    memory = slot_memory(channel, slot)
    x_1N, y_1N = (view_rows(memory, at, 1, 2304, DType.UINT8) for at in (0, 1 << 19))
    try:
        while True:
            x_1N.fill_(right % 256)
            channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, 2304, 0, 1 << 19))
            channel.wait(slot, 60)
            good = bool((y_1N == (right + 1) % 256).all())
            right, wrong = right + good, wrong + (not good)
            if told.poll():
                told.recv()
                told.send((right, wrong))
    except DaemonGoneError:
        told.send("the daemon is gone")
        channel.close()


def used_bytes(fake: Path | None) -> int:
    """Returns the device memory that is in use, by whomever."""
    if fake is not None:
        sizes = [path.stat().st_size for path in fake.iterdir()]
        return sum(size for size in sizes if size > 1 << 16)
    import torch

    free, whole = torch.cuda.mem_get_info(0)
    return int(whole - free)


def wait_for(fake: Path | None, most: int) -> int:
    """Waits until no more than that is in use; returns what is."""
    deadline = time.monotonic() + _BACK_S
    while (used := used_bytes(fake)) > most:
        assert time.monotonic() < deadline, f"{used - most} bytes more than before are in use"
        time.sleep(0.05)
    return used


def main() -> None:
    """Kills clients, then the daemon."""
    asked = options(__doc__).parse_args()
    source, spawn = source_of(asked.fake), multiprocessing.get_context("spawn")
    at_first = used_bytes(asked.fake)
    with tempfile.TemporaryDirectory() as folder:
        endpoint = str(Path(folder, "rows.cuda"))

        def start(target: Callable[..., None]) -> tuple[BaseProcess, Connection]:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=target, args=(source, endpoint, theirs), daemon=True)
            process.start()
            theirs.close()
            return process, ours

        with serving(source, endpoint, slot_bytes=_SLOT_BYTES) as daemon:
            survivor, pipe = start(bystander)
            calls = served(pipe)
            serving_bytes = used_bytes(asked.fake)
            victims = [start(holder) for _ in range(_KILLS)]  # at once: each may need many seconds to start
            for _, theirs in victims:
                assert hear(theirs) == "holding"
            for victim, theirs in victims:
                victim.kill()
                victim.join()
                theirs.close()
                before, calls = calls, served(pipe)
                assert calls > before, "nobody was served any more"
            wait_for(asked.fake, serving_bytes + _SLACK_BYTES)
            daemon.kill()
            daemon.join()
            assert hear(pipe) == "the daemon is gone"
            survivor.join(30)
            survivor.kill()
            survivor.join()
    if asked.fake is None:  # the fake's memory is files, which nobody clears away after a daemon that was killed
        wait_for(None, at_first + _SLACK_BYTES)
    tell(kills=_KILLS + 1, used_at_first=at_first, used_while_serving=serving_bytes, calls_beside=calls)


def served(pipe: Connection) -> int:
    """Returns how many calls of the bystander were answered until now."""
    pipe.send("how many?")
    right, wrong = hear(pipe)
    assert not wrong, f"{wrong} answers to somebody else were wrong"
    return int(right)


def hear(pipe: Connection) -> Any:
    """Returns what the process says next."""
    assert pipe.poll(START_S), "a client is silent"
    return pipe.recv()


if __name__ == "__main__":
    main()
