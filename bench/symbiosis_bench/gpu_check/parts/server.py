"""A daemon's end in a process of its own, which adds one to the bytes that stand on the device.

With `wait` it answers once the device is done, as Symbiosis' daemon does; without, as soon as the work is queued.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

import torch

from symbiosis_core.specs import DType
from symbiosis_transports.cuda.seam import CudaSource
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.ports import Arrival, ServerChannel, ServesOnDevice
from symbiosis_transports.tensors import slot_memory, view_rows
from symbiosis_transports.testing import ADD_ONE, EchoDaemon

__all__ = ["START_S", "serving"]

START_S: Final = 120.0
"""A process may need so long to import torch and to start CUDA."""


class DeviceEcho(EchoDaemon):
    """Adds one on the device."""

    wait = True

    def _serve(self, channel: ServerChannel, arrival: Arrival) -> None:
        call = arrival.call
        if call.op != ADD_ONE:
            super()._serve(channel, arrival)
            return
        assert isinstance(channel, ServesOnDevice)  # its transport is cuda_ipc
        memory = slot_memory(channel, arrival.slot)
        x_1N = view_rows(memory, call.in_offset, 1, call.rows, DType.UINT8)
        y_1N = view_rows(memory, call.out_offset, 1, call.rows, DType.UINT8)
        torch.add(x_1N, 1, out=y_1N)
        channel.computed(arrival.slot)
        if self.wait and x_1N.is_cuda:
            torch.cuda.current_stream().synchronize()
        channel.answer(arrival.slot, arrival.generation)


@contextmanager
def serving(
    source: CudaSource,
    endpoint: str,
    *,
    wait: bool = True,
    slot_bytes: int = 1 << 20,
    environment: Mapping[str, str] | None = None,
) -> Iterator[BaseProcess]:
    """A server's process, which has opened its door. It ends with the block."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        process = spawn.Process(target=_serve, args=(source, endpoint, wait, slot_bytes, theirs), daemon=True)
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()
    try:
        if not ours.poll(START_S) or ours.recv() != "open":
            raise RuntimeError("the server did not start")
        yield process
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join()


def _serve(source: CudaSource, endpoint: str, wait: bool, slot_bytes: int, pipe: Connection) -> None:
    """Serves until the other end of the pipe is closed."""
    daemon = DeviceEcho(CudaIpc(source), endpoint, slots=4, slot_bytes=slot_bytes)
    daemon.wait = wait
    pipe.send("open")
    try:
        pipe.recv()
    except EOFError:
        daemon.close()
