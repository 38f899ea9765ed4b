"""Leaves the cores to the daemon while it computes for this process.

After a parallel operation OpenMP's threads look for more work for milliseconds, awake (8 ms of processor time were
measured after one `exp`). Here the next thing is nearly always a wait for the daemon, which needs that very core.
So before a wait the threads are let go, and a forward over a few rows runs in one thread, for which such small
operations gain nothing from a second. When the model's forward returns, torch has as many threads as before.

`SYMBIOSIS_KEEP_THREADS=1` in the environment leaves all that alone.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any, Final

import torch
from torch import nn

from symbiosis_core.openmp import let_team_go

__all__ = ["FEW_ROWS", "KEEP_VARIABLE", "before_wait", "watch_forwards"]

KEEP_VARIABLE: Final = "SYMBIOSIS_KEEP_THREADS"
FEW_ROWS: Final = 256
"""Up to this many rows a forward runs in one thread. At 128 rows two threads, which are let go and made anew for
every trip, cost a training step 0.3 s more than one."""


class _Forward(threading.local):
    """What this thread's innermost forward has changed."""

    depth = 0
    threads_before = 0


_forward = _Forward()


def watch_forwards(model: nn.Module) -> None:
    """From now on forwards of `model` may be given fewer threads."""
    if not _keeps():
        model.register_forward_pre_hook(_enter)
        model.register_forward_hook(_leave, always_call=True)


def before_wait(rows: int) -> None:
    """Says that this thread is about to wait for the daemon to compute `rows` rows."""
    inside = _forward.depth and rows <= FEW_ROWS and not _forward.threads_before
    if inside and (threads := torch.get_num_threads()) > 1:
        _forward.threads_before = threads
        torch.set_num_threads(1)
    if not _keeps():
        let_team_go()


def _enter(module: nn.Module, args: Any) -> None:
    _forward.depth += 1


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _forward.depth -= 1
    if not _forward.depth and _forward.threads_before:
        torch.set_num_threads(_forward.threads_before)
        _forward.threads_before = 0


@cache
def _keeps() -> bool:
    return os.environ.get(KEEP_VARIABLE, "0") not in ("", "0")
