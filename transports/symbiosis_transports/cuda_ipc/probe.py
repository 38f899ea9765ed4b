"""Whether two processes here can really share memory and events of a device: tried, with a child process.

That memory can be allocated says nothing: containers, drivers and partitions of a GPU refuse later, when the
handle is opened. So a child opens memory and event, lets a stream wait for the event, reads what stands there,
and writes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Final

from symbiosis_transports.cuda.seam import Cuda, CudaError, CudaSource, EventNumber, Pointer

__all__ = ["probe"]

_QUESTION: Final = bytes(range(64))
_REPLY: Final = bytes(reversed(_QUESTION))
_CHILD_S: Final = 120.0
"""The child imports torch and starts CUDA, on a machine that may be busy."""


def probe(source: CudaSource, uuid: str) -> str:
    """Returns why two processes cannot share that device; empty: they can."""
    try:
        cuda = source.open(uuid)
        with _made(cuda) as (pointer, event):
            cuda.poke(pointer, 0, _QUESTION)
            cuda.record(event, cuda.current_stream())
            told = _ask_child(source, uuid, cuda.memory_handle(pointer), cuda.event_handle(event))
            if not told and cuda.peek(pointer, 0, len(_REPLY)) != _REPLY:
                told = "what another process wrote is not seen here"
            return told
    except CudaError as error:
        return str(error)


def _ask_child(source: CudaSource, uuid: str, memory: bytes, event: bytes) -> str:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=_look, args=(source, uuid, memory, event, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        return str(ours.recv()) if ours.poll(_CHILD_S) else "the process that tried has not answered"
    except EOFError:
        return "the process that tried has died"
    finally:
        ours.close()
        child.kill()
        child.join()


def _look(source: CudaSource, uuid: str, memory: bytes, event: bytes, told: Connection) -> None:
    """What the child does."""
    try:
        cuda = source.open(uuid)
        pointer, shared = cuda.open_memory(memory), cuda.open_event(event)
        cuda.wait(cuda.current_stream(), shared)
        while not cuda.done(shared):
            pass
        seen = cuda.peek(pointer, 0, len(_QUESTION))
        cuda.poke(pointer, 0, _REPLY)
        cuda.destroy_event(shared)
        cuda.close_memory(pointer)
        told.send("" if seen == _QUESTION else "memory of another process reads as something else here")
    except CudaError as error:
        told.send(str(error))


@contextlib.contextmanager
def _made(cuda: Cuda) -> Iterator[tuple[Pointer, EventNumber]]:
    pointer = cuda.allocate(len(_QUESTION))
    try:
        event = cuda.create_event()
        try:
            yield pointer, event
        finally:
            cuda.destroy_event(event)
    finally:
        cuda.free(pointer)
