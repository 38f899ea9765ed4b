"""kill -9 of clients with calls in flight, then of the daemon: others go on, and all device memory comes back."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from symbiosis_bench.gpu_check.parts.asked import options, source_of, tell
from symbiosis_bench.gpu_check.parts.server import START_S, serving
from symbiosis_core.errors import DaemonGoneError
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.cuda.seam import CudaSource
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.ports import Call
from symbiosis_transports.testing import ADD_ONE, NEVER

_KILLS = 3
_BACK_S = 30.0
_SLACK_BYTES = 8 << 20
"""Of what a driver keeps for itself. An arena has 4 MiB, so three that are lost are found."""


def holder(source: CudaSource, endpoint: str, told: Connection) -> None:
    """Publishes into every slot, and waits to be killed, or to be told that the daemon was."""
    channel = CudaIpc(source).connect(endpoint, Token("good"), START_S)
    slots = [channel.lease_nowait() for _ in range(channel.slots)]
    for slot in slots[1:]:
        channel.publish(slot, Call(NEVER, Direction.FORWARD, 64, 0, 1 << 19))
    channel.publish(slots[0], Call(ADD_ONE, Direction.FORWARD, 64, 0, 1 << 19))
    channel.wait(slots[0], 60)
    told.send("holding")
    try:
        channel.wait(slots[1], 300)
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

        def start() -> tuple[multiprocessing.process.BaseProcess, Connection]:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=holder, args=(source, endpoint, theirs), daemon=True)
            process.start()
            theirs.close()
            assert ours.poll(START_S), "a client did not start"
            assert ours.recv() == "holding"
            return process, ours

        with serving(source, endpoint) as daemon:
            serving_bytes = used_bytes(asked.fake)
            for _ in range(_KILLS):
                victim, _pipe = start()
                victim.kill()
                victim.join()
            wait_for(asked.fake, serving_bytes + _SLACK_BYTES)
            survivor, pipe = start()
            daemon.kill()
            daemon.join()
            assert pipe.poll(60), "the client was not told of the daemon's death"
            assert pipe.recv() == "the daemon is gone"
            survivor.join(30)
            survivor.kill()
            survivor.join()
    if asked.fake is None:  # the fake's memory is files, which nobody clears away after a daemon that was killed
        wait_for(None, at_first + _SLACK_BYTES)
    tell(kills=_KILLS + 1, used_at_first=at_first, used_while_serving=serving_bytes)


if __name__ == "__main__":
    main()
