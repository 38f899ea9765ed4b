"""An echo daemon as its own process.

    python -m tests.transports.echo_process TRANSPORT ENDPOINT SLOT_BYTES [DESCRIPTORS]

Answers every line on standard input with what it holds, in JSON.
A number there says how large slots are from now on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import sys
from pathlib import Path

from symbiosis_transports.testing import EchoDaemon
from tests.transports.carriers import carrier


def held() -> dict[str, int]:
    """What this process takes: memory of its own and shared, and descriptors; nothing where it cannot look.

    No memory where the kernel does not tell of it.
    """
    rollup: list[str] = []
    try:
        with contextlib.suppress(FileNotFoundError):
            rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
    except OSError as error:
        assert error.errno == errno.EMFILE, error
        return {}
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}
    memory = {"rss_bytes": kilobytes["Rss"] * 1024} if rollup else {}
    return memory | {"descriptors": descriptors}


def main() -> None:
    """Serves until standard input ends."""
    name, endpoint, slot_bytes, *limit = sys.argv[1:]
    daemon = EchoDaemon(carrier(name, endpoint), endpoint, slots=4, slot_bytes=int(slot_bytes))
    if limit:
        free = len(list(Path("/proc/self/fd").iterdir())) + int(limit[0])
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip():
            daemon._slot_bytes = int(line)
        with daemon.changed:
            state = {"channels": len(daemon.channels), "gone": len(daemon.goodbyes), "served": daemon.served}
        sys.stdout.write(json.dumps(state | held()) + "\n")
        sys.stdout.flush()
    daemon.close()


if __name__ == "__main__":
    main()
