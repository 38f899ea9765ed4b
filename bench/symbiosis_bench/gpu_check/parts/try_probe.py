"""Can two processes share memory and events of the device? What a daemon asks before it offers `cuda_ipc`."""

from __future__ import annotations

import sys
import time

from symbiosis_bench.gpu_check.parts.asked import options, source_of, tell
from symbiosis_transports.cuda_ipc.probe import probe


def main() -> None:
    """Tells, or fails with the reason."""
    source = source_of(options(__doc__).parse_args().fake)
    began = time.monotonic()
    if reason := probe(source, source.uuids()[0]):
        sys.exit(reason)
    tell(seconds=round(time.monotonic() - began, 2), devices=source.uuids())


if __name__ == "__main__":
    main()
