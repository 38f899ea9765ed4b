"""A daemon of a benchmark is the one that users run, but for what the benchmark says it is not."""

from __future__ import annotations

import msgspec

from symbiosis_bench.end_to_end.daemons import configuration
from symbiosis_core.config import DEFAULT_LANES, ComputeConfig, DaemonConfig, check


def test_only_the_threads_are_set() -> None:
    assert check("bench", configuration(2)) == DaemonConfig(compute=ComputeConfig(threads=2))


def test_without_holding_nothing_else_is_different() -> None:
    unheld = check("bench", configuration(2, holding=False))
    lanes = {name: msgspec.structs.replace(lane, max_hold_us=0) for name, lane in DEFAULT_LANES.items()}
    assert lanes != DEFAULT_LANES
    assert unheld == DaemonConfig(compute=ComputeConfig(threads=2), lanes=lanes)
