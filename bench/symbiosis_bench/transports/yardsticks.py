"""Names of what is measured beside the transports. Light: the command line reads them."""

from __future__ import annotations

from typing import Final

from symbiosis_bench.transports.placement import ONE_CORE, TWO_CORES

__all__ = ["ACROSS_CORES", "INPROC", "MEMORY_FLOOR", "RAW_ZMQ", "RAW_ZMQ_SHM", "SAME_CORE", "WAKE_FLOORS"]

INPROC: Final = "inproc"
"""No yardstick, but as they it has no server process."""
MEMORY_FLOOR: Final = "memory_floor"
RAW_ZMQ: Final = "raw_zmq"
RAW_ZMQ_SHM: Final = "raw_zmq_shm"
SAME_CORE: Final = "wake_floor_same_core"
ACROSS_CORES: Final = "wake_floor_across_cores"
WAKE_FLOORS: Final = {SAME_CORE: ONE_CORE, ACROSS_CORES: TWO_CORES}
"""Each with its placement, whatever that of the others is."""
