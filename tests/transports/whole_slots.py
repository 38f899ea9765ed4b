"""A client that fills every slot, and looks at every byte of its answers, where /dev/shm is full.

python -m tests.transports.whole_slots TRANSPORT ENDPOINT
"""

from __future__ import annotations

import os
import sys

from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import ADD_ONE


def main() -> None:
    """See above."""
    name, endpoint = sys.argv[1:]
    assert os.statvfs("/dev/shm").f_bavail == 0
    channel = transport(name).connect(endpoint, Token("good"), 20)
    size = channel.slot_bytes
    for number in range(channel.slots):
        slot = channel.lease_nowait()
        channel.buffer(slot)[:] = bytes([number]) * size
        channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, size, 0, 0, in_bytes=size, out_bytes=size))
        channel.wait(slot, 20)
        assert channel.buffer(slot) == bytes([number + 1]) * size
    channel.close()
    sys.stdout.write("full, and right\n")


if __name__ == "__main__":
    main()
