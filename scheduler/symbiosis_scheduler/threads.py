"""How many threads one matrix product gets, chosen by its size.

A product of a few rows only reads the weights once and gains nothing from a second thread, while waking that
thread costs more than the product and takes the core from a client. A product in company leaves a core to each
client that computes meanwhile, and to the daemon's other product: where all cores are wanted, OpenMP's barriers
wait for the thread that has none. In any company it keeps half of the threads: all clients wait for its work.
`torch.set_num_threads` itself was measured at 0.2 us, so it is called for every plan.
"""

from __future__ import annotations

import os
from typing import Final

import torch

from symbiosis_core.errors import UsageError

__all__ = ["MANY_ROWS", "ThreadChoice"]

MANY_ROWS: Final = 16
"""From this many rows on a product is computed by all threads."""


class ThreadChoice:
    """The rule, for `threads` threads at most; 0 means as many as this process has cores."""

    def __init__(self, threads: int) -> None:
        cores = len(os.sched_getaffinity(0))
        if threads > cores:
            raise UsageError(f"compute.threads = {threads}: this process may use {cores} cores; use at most that")
        self.most = threads or cores

    @property
    def policy(self) -> str:
        """Who gets how many threads, in words."""
        return f"1 below {MANY_ROWS} rows, else {self.most} less the clients at work, at least half"

    def use_for(self, rows: int, *, company: int = 0) -> bool:
        """Sets the number of threads of this thread's next product, and returns whether that is more than one.

        It leaves a core to each of those in `company`, who compute meanwhile, but keeps half of the threads.
        """
        wanted = max(1, self.most // 2, self.most - company) if rows >= MANY_ROWS else 1
        torch.set_num_threads(wanted)  # each time: part of it is of the thread, and part of the process
        return wanted > 1
