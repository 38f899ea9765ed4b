"""Leaves the cores to the daemon while it computes for this process.

After a parallel operation OpenMP's threads look for more work for milliseconds, awake (8 ms of processor time were
measured after one `exp`). Here the next thing is nearly always a wait for the daemon, which needs that very core.
So before a wait the threads are let go, and a forward or backward over a few rows runs in one thread, for which
such small operations gain nothing from a second. When it returns, torch has as many threads as before.

`SYMBIOSIS_KEEP_THREADS=1` in the environment leaves all that alone.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any, Final

import torch
from torch import nn
from torch.autograd import Variable

from symbiosis_core.openmp import let_team_go

__all__ = ["FEW_ROWS", "KEEP_VARIABLE", "before_wait", "watch_forwards"]

KEEP_VARIABLE: Final = "SYMBIOSIS_KEEP_THREADS"
FEW_ROWS: Final = 256
"""Up to this many rows are computed in one thread. At 128 rows two threads, which are let go and made anew for
every trip, cost a training step 0.3 s more than one in its forward, and up to 0.1 s in its backward."""


class _Inside(threading.local):
    """Where this thread is, and what was changed for it."""

    depth = 0
    threads_before = 0


_inside = _Inside()


def watch_forwards(model: nn.Module) -> None:
    """From now on forwards of `model` may be given fewer threads."""
    if not _keeps():
        model.register_forward_pre_hook(_enter)
        model.register_forward_hook(_leave, always_call=True)


def before_wait(rows: int) -> None:
    """Says that this thread is about to wait for the daemon to compute `rows` rows."""
    if rows <= FEW_ROWS and not _inside.threads_before and not _keeps():
        backward = torch._C._current_graph_task_id() != -1
        if (backward or _inside.depth) and (threads := torch.get_num_threads()) > 1:
            _inside.threads_before = threads
            torch.set_num_threads(1)
            if backward:
                Variable._execution_engine.queue_callback(_give_back)
    if not _keeps():
        let_team_go()


def _enter(module: nn.Module, args: Any) -> None:
    if not _inside.depth:
        _give_back()  # a backward that failed has not
    _inside.depth += 1


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _inside.depth -= 1
    if not _inside.depth:
        _give_back()


def _give_back() -> None:
    if _inside.threads_before:
        torch.set_num_threads(_inside.threads_before)
        _inside.threads_before = 0


@cache
def _keeps() -> bool:
    return os.environ.get(KEEP_VARIABLE, "0") not in ("", "0")
