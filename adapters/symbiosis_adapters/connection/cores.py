"""Leaves the cores to the daemon while it computes for this process.

After a parallel operation OpenMP's threads look for more work for milliseconds, awake (8 ms of processor time were
measured after one `exp`). Here the next thing is nearly always a wait for the daemon, which needs that very core.
So they are made to sleep soon, or where they are fewer than the cores, which OpenMP lets look on, are let go; and
between two waits a forward or backward over a few rows computes in one thread. All are tried for it (see
`thread_trial`), and stay where trips come round faster with them. When the forward or backward returns, torch has
as many threads as before. Where forwards are steps of generate() it is when that returns: the few logits from
which it chooses a token were given to all threads, and waited some milliseconds for one of them.

Where the daemon computes rows of several lanes it also asks who is to leave a core, and who to stay on it (see
`spared_core`). This thread does until its forward or backward returns.

`SYMBIOSIS_KEEP_THREADS=1` in the environment leaves all that alone.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from functools import cache
from typing import Any, Final, NamedTuple, cast

import torch
from torch import nn
from torch.autograd import Variable
from transformers import GenerationMixin

from symbiosis_core.clock import monotonic_us
from symbiosis_core.openmp import let_team_go, sleep_soon
from symbiosis_core.spared_core import Place, go, return_to
from symbiosis_core.thread_trial import ThreadTrial

__all__ = ["FEW_ROWS", "KEEP_VARIABLE", "after_wait", "before_wait", "interrupted", "watch_forwards"]

KEEP_VARIABLE: Final = "SYMBIOSIS_KEEP_THREADS"
FEW_ROWS: Final = 256
"""After a wait for more rows all threads compute."""
_WATCHED: Final = "symbiosis_watched"


class _Phase(NamedTuple):
    """What this thread computes from one wait to the next."""

    trial: ThreadTrial
    kind: object
    all_threads: bool
    began_us: int


class _Inside(threading.local):
    """Where this thread is, and what was changed for it."""

    depth = 0
    threads_before = 0
    """0: nothing was changed."""
    task = -1
    """The backward for which it was changed; -1: a forward."""
    phase: _Phase | None = None
    """None: nobody asks how long it takes."""
    place: Place | None = None
    """Where the daemon has asked this thread to be."""
    placed_for: int = -1
    """The backward for which it was asked; -1: a forward."""
    cores_before: set[int] | None = None
    """Where it could be before; None: nothing was changed."""

    @property
    def stays(self) -> bool:
        """Whether it is kept on one core."""
        return self.cores_before is not None and self.place is not None and not self.place.leave


_inside = _Inside()


def watch_forwards(model: nn.Module) -> None:
    """From now on forwards of `model`, and what generate() does between them, may be given fewer threads."""
    if not _keeps():
        model.register_forward_pre_hook(_enter)
        model.register_forward_hook(_leave, always_call=True)
        vars(model)[_WATCHED] = True
        sleep_soon()
        _watch_generate()


def before_wait(rows: int, kind: object = None, trial: ThreadTrial | None = None) -> None:
    """Says that this thread is about to wait for the daemon to compute `rows` rows.

    Until the next wait about as much will be computed here as after other waits of that kind, so `trial` can tell
    by how many threads. Without one it is one thread.
    """
    if _keeps():
        return
    task = torch._C._current_graph_task_id()
    if task != -1 or _inside.depth:
        tries = trial is not None and not _inside.stays and not _compiles()  # new threads would stay, too
        _choose_threads(task, rows, kind, trial if tries else None)
    if (_inside.threads_before or torch.get_num_threads()) < _cores():
        let_team_go()


def after_wait(place: Place | None, rows: int = 0) -> bool:
    """Says that the daemon has answered `rows` rows, and where it asks this thread to compute; None: anywhere.

    It does until the daemon asks otherwise, or the forward or backward returns. Nobody stays on one core to
    compute many rows. Returns whether this thread does.
    """
    if place is not None and not place.leave and rows > FEW_ROWS:
        place = None
    if (place is None and _inside.place is None) or _keeps():
        return False
    task = torch._C._current_graph_task_id()
    if place == _inside.place and task == _inside.placed_for:
        return _inside.stays
    _return_cores()
    if place is None or (task == -1 and not _inside.depth):
        return False
    _inside.place, _inside.placed_for, _inside.cores_before = place, task, go(place)
    if task != -1:
        Variable._execution_engine.queue_callback(_give_back)
    return _inside.stays


def interrupted() -> None:
    """Says that a wait was interrupted: no forward that waited for it in this thread says that it returns."""
    _inside.depth = 0
    _inside.phase = None
    _give_back()


def _return_cores() -> None:
    if _inside.cores_before is not None:
        return_to(_inside.cores_before)
    _inside.place = _inside.cores_before = None


def _choose_threads(task: int, rows: int, kind: object, trial: ThreadTrial | None) -> None:
    now_us = monotonic_us()
    if _inside.threads_before and _inside.task != task:
        _give_back()  # a backward that failed has not
    if (last := _inside.phase) is not None:
        last.trial.took(last.kind, now_us - last.began_us, all_threads=last.all_threads)
        _inside.phase = None
    if rows > FEW_ROWS:
        torch.set_num_threads(_inside.threads_before or torch.get_num_threads())
        return
    if not _inside.threads_before:
        if torch.get_num_threads() == 1:
            return
        _inside.threads_before, _inside.task = torch.get_num_threads(), task
        if task != -1:
            Variable._execution_engine.queue_callback(_give_back)
    all_threads = trial is not None and trial.all_threads(kind)
    torch.set_num_threads(_inside.threads_before if all_threads else 1)
    if trial is not None:
        _inside.phase = _Phase(trial, kind, all_threads, now_us)


def _compiles() -> bool:
    """Whether torch.compile has compiled anything here, if only a decode step.

    To its guards another number of threads is another case, which it compiles by itself.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["frames"]["total"])


def _enter(module: nn.Module, args: Any) -> None:
    if not _inside.depth:
        _give_back()  # a backward that failed has not
    _inside.depth += 1


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _inside.depth = max(0, _inside.depth - 1)  # an interrupt may have ended it
    _inside.phase = None  # what comes next is not the model's
    if not _inside.depth:
        _give_back()


def _watch_generate() -> None:
    """Wraps `generate` once in a process. That of a model that nobody watches (an assistant) has all threads."""
    plain: Any = GenerationMixin.generate
    if _WATCHED in vars(plain):
        return

    @functools.wraps(plain)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _WATCHED not in vars(self):
            _give_back()
            return plain(self, *args, **kwargs)
        _enter(self, args)
        try:
            return plain(self, *args, **kwargs)
        finally:
            _leave(self, args, None)

    vars(generate)[_WATCHED] = True
    cast("Any", GenerationMixin).generate = generate


def _give_back() -> None:
    _return_cores()
    if _inside.threads_before:
        torch.set_num_threads(_inside.threads_before)
        _inside.threads_before = 0
        _inside.phase = None


@cache
def _keeps() -> bool:
    return os.environ.get(KEEP_VARIABLE, "0") not in ("", "0")


@cache
def _cores() -> int:
    return len(os.sched_getaffinity(0))
