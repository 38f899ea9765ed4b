"""Several clients make thousands of calls with rows of random sizes, and compare every byte of every answer.

They sleep now and then, between any two steps of a call, so that neither side always comes first.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from symbiosis_bench.gpu_check.parts.asked import options, source_of, tell
from symbiosis_bench.gpu_check.parts.server import START_S, serving
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction, DType
from symbiosis_transports.cuda.seam import CudaSource
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.ports import Call
from symbiosis_transports.tensors import slot_memory, view_rows
from symbiosis_transports.testing import ADD_ONE

_CALLS_S = 400.0
_ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def doze(choose: random.Random) -> None:
    """Sleeps for up to 2 ms, one time in fifty."""
    if not choose.randrange(50):
        time.sleep(choose.random() * 2e-3)


def client(source: CudaSource, endpoint: str, calls: int, seed: int, told: Connection) -> None:
    """Makes the calls; tells how many answers were wrong, a checksum over all of them, and what torch did."""
    choose = random.Random(seed)
    channel = CudaIpc(source).connect(endpoint, Token("good"), START_S)
    wrong = checksum = 0
    for number in range(calls):
        size = choose.choice((64, 2304, 65_536))
        slot = channel.lease_nowait()
        memory = slot_memory(channel, slot)
        x_1N = view_rows(memory, 0, 1, size, DType.UINT8)
        sent_1N = (torch.arange(size, device=x_1N.device) + number * 7 + seed).to(torch.uint8).view(1, size)
        x_1N.copy_(sent_1N)
        doze(choose)
        channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, size, 0, 1 << 19))
        doze(choose)
        channel.wait(slot, 60)
        doze(choose)
        y_1N = view_rows(memory, 1 << 19, 1, size, DType.UINT8).clone()
        channel.release(slot)
        wrong += not torch.equal(y_1N, sent_1N + 1)
        checksum = (checksum * 31 + int(y_1N.sum(dtype=torch.int64))) % (1 << 61)
    channel.close()
    told.send((wrong, checksum, expandable()))


def expandable() -> bool:
    """Whether torch has put anything on the device of this process into segments that can grow."""
    if not torch.cuda.is_initialized():
        return False
    return any(segment.get("is_expandable") for segment in torch.cuda.memory_snapshot())


def main() -> None:
    """Runs the clients; fails where any answer was wrong."""
    parser = options(__doc__)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--calls", type=int, default=10_000, help="of each client")
    parser.add_argument("--daemon-too", action="store_true", help="the daemon has the clients' allocator, too")
    asked = parser.parse_args()
    source, spawn = source_of(asked.fake), multiprocessing.get_context("spawn")
    allocator = os.environ.get(_ALLOCATOR, "")
    with tempfile.TemporaryDirectory() as folder:
        endpoint = str(Path(folder, "rows.cuda"))
        with serving(source, endpoint, environment={_ALLOCATOR: allocator if asked.daemon_too else ""}):
            pipes, processes = [], []
            for seed in range(asked.clients):
                ours, theirs = spawn.Pipe()
                arguments = (source, endpoint, asked.calls, seed, theirs)
                processes.append(spawn.Process(target=client, args=arguments, daemon=True))
                processes[-1].start()
                theirs.close()
                pipes.append(ours)
            told = [pipe.recv() if pipe.poll(_CALLS_S) else (asked.calls, 0, False) for pipe in pipes]
            for process in processes:
                process.join(10)
    wrong, checksums = sum(each for each, _, _ in told), [checksum for _, checksum, _ in told]
    assert not wrong, f"{wrong} answers were wrong"
    tell(
        clients=asked.clients,
        calls=asked.calls,
        checksums=checksums,
        allocator=allocator,
        expandable=[it for *_, it in told],
    )


if __name__ == "__main__":
    main()
