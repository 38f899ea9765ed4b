"""How many threads one matrix product gets, chosen by its size.

A product of a few rows reads the weights once, and little more. A second thread helps it where a core is idle for
it, and is tried (see `thread_trial`); beside a client that computes it only takes that one's core. A product of
many rows in company leaves a core to each client that computes meanwhile, and to the daemon's other product: where
all cores are wanted, OpenMP's barriers wait for the thread that has none. In any company it keeps half of the
threads: all clients wait for its work.
`torch.set_num_threads` itself was measured at 0.2 us, so it is called for every plan.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import torch

from symbiosis_core.errors import UsageError
from symbiosis_core.thread_trial import ThreadTrial

__all__ = ["MANY_ROWS", "ThreadChoice", "Used"]

MANY_ROWS: Final = 16
"""From this many rows on only company takes threads from a product; below, all of them have to be faster first."""


class Used(NamedTuple):
    """With how many threads something is computed."""

    threads: int
    kind: object
    """What it is a trial of; None: of nothing."""


class ThreadChoice:
    """The rule, for `threads` threads at most; 0 means as many as this process has cores."""

    def __init__(self, threads: int) -> None:
        cores = len(os.sched_getaffinity(0))
        if threads > cores:
            raise UsageError(f"compute.threads = {threads}: this process may use {cores} cores; use at most that")
        self.most = threads or cores

        self._trial = ThreadTrial()

    @property
    def policy(self) -> str:
        """Who gets how many threads, in words."""
        if self.most == 1:
            return "1"
        return (
            f"{self.most} less the clients at work, at least half, from {MANY_ROWS} rows on; below that "
            f"{self.most} or 1, whichever is faster where no client is at work, else 1"
        )

    def use_for(self, rows: int, *, company: int | None = 0, kind: object = None) -> Used:
        """Sets the number of threads of this thread's next product.

        It leaves a core to each of those in `company`, who compute meanwhile, but keeps half of the threads. Few
        rows have all threads only if there is no company, and only if that was faster for those of their `kind`
        (None: one thread). None as `company` means that only rows may count, as for exact batches.
        """
        kind = kind if company == 0 and self.most > 1 and rows < MANY_ROWS else None
        if rows >= MANY_ROWS:
            threads = max(1, self.most // 2, self.most - (company or 0))
        else:
            threads = self.most if kind is not None and self._trial.all_threads(kind) else 1
        torch.set_num_threads(threads)  # each time: part of it is of the thread, and part of the process
        return Used(threads, kind)

    def took(self, used: Used, us: float) -> None:
        """What was computed with these threads took so long. For one thread to call."""
        if used.kind is not None:
            self._trial.took(used.kind, us, all_threads=used.threads > 1)
