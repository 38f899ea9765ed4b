"""How much memory training steps take in this process, from the kernel's own counters.

The kernel keeps the highest resident set exactly, and can be told to begin anew (`/proc/self/clear_refs`), so no
short peak is missed as it would be between two samples. Of that peak the file pages are taken away, which are
libraries and mapped weights and do not move once warm, and so is the anonymous memory that the process has at
rest: weights, adapter, interpreter. What shared memory the process has touched is never taken away: the arena of a
client belongs to the client, also while it rests.

On a GPU none of that says anything about activations. There it is what torch has held at most, less what it holds
at rest.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from symbiosis_bench.end_to_end.contender import Contender
from symbiosis_bench.end_to_end.messages import Peak, Peaked, Train
from symbiosis_bench.end_to_end.work import train_steps

__all__ = ["Resident", "activations", "peak", "resident"]

_BEGIN_ANEW: Final = "5"


class Resident:
    """What /proc/self/status tells, in bytes."""

    def __init__(self, text: str) -> None:
        lines = (line.split() for line in text.splitlines())
        told = {words[0].rstrip(":"): words for words in lines if words}
        self.anonymous, self.file, self.shared, self.highest = (
            int(told[key][1]) * 1024 for key in ("RssAnon", "RssFile", "RssShmem", "VmHWM")
        )

    def __repr__(self) -> str:
        return (
            f"<Resident anonymous={self.anonymous} file={self.file} shared={self.shared} at most {self.highest}>"
        )


def resident() -> Resident:
    """Returns what this process holds now."""
    return Resident(Path("/proc/self/status").read_text())


def activations(rest: Resident, after: Resident) -> int:
    """Returns what came on top of `rest`, at the highest moment before `after`, with all of the shared memory."""
    return max(0, after.highest - after.file - rest.anonymous)


def peak(contender: Contender, order: Peak) -> Peaked:
    """Makes the steps twice: to touch what stays, and to be watched."""
    steps = Train(order.shape, order.steps)
    contender.begin(0)
    train_steps(contender, steps, _nothing)
    _tidy()
    rest = resident()
    Path("/proc/self/clear_refs").write_text(_BEGIN_ANEW)
    contender.begin(0)
    on_gpu = contender.device.type == "cuda"
    gpu_rest = torch.cuda.memory_allocated(contender.device) if on_gpu else 0
    losses, _ = train_steps(contender, steps, _nothing)
    after, gpu_peak = resident(), contender.cuda_bytes()
    return Peaked(
        activations=activations(rest, after) if gpu_peak is None else gpu_peak - gpu_rest,
        arena=after.shared,
        process=after.highest,
        losses=tuple(losses),
        cuda_bytes=gpu_peak,
    )


def _tidy() -> None:
    """Gives back to the system what the C library keeps of freed memory."""
    gc.collect()
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)


def _nothing() -> None:
    pass
