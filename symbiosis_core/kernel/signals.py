"""What signals ask of a kernel: the first to stop, the next to stop at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence

from symbiosis_core.kernel.supervision import Kernel

__all__ = ["install_signals"]


@contextlib.contextmanager
def install_signals(
    kernel: Kernel, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[None]:
    """Lets the first of `signals` ask the kernel to stop, and the next one abort the drain.

    For the main thread, inside its running loop. The handlers from before are put back at the end.
    """
    loop = asyncio.get_running_loop()
    received: list[str] = []

    def receive(number: signal.Signals) -> None:
        received.append(number.name)
        if len(received) == 1:
            kernel.request_stop(number.name)
        else:
            kernel.abort(f"{number.name} came after {received[0]}")

    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        loop.add_signal_handler(number, receive, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # None: a handler that was not set from Python cannot be put back
                signal.signal(number, handler)
