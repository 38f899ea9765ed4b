"""What a simulation is for: recorded under one configuration, a trace foretells what another will do.

What would really have come of the other is known here: the reality is a world in virtual time, too, which is
recorded as a daemon is. So nothing but the simulator can be off: no machine is faster in one run than in another.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from symbiosis_core.config import DaemonConfig, LimitsConfig
from symbiosis_core.errors import UsageError
from symbiosis_scheduler.simulation.players import Device
from symbiosis_scheduler.simulation.recorded import Recorded
from symbiosis_scheduler.simulation.recorder import Recorder
from symbiosis_scheduler.simulation.report import LaneFigures
from symbiosis_scheduler.simulation.script import Load, read_load
from symbiosis_scheduler.simulation.trace import Kind
from symbiosis_scheduler.simulation.trace_file import records
from symbiosis_scheduler.simulation.world import World
from tests.scheduler.simulation.loads import LAYERS, config, mixed, played, served

HELD = ("p50_us", "p99_us", "mean_us", "forward_p50_us", "forward_p99_us", "rows_per_s")


def recorded(load: Load, settings: DaemonConfig, arrivals: float = 0.0) -> list[tuple[Any, ...]]:
    """Returns the trace of a reality under a configuration."""
    world = World(load, settings, arrivals=arrivals)
    state = world.devices[0].state
    recorder, handle = Recorder(state, "m", 0), state.handle

    def tell(event: Any) -> Any:
        instructions = handle(event)
        recorder.note(event, instructions, world.now_us)
        return instructions

    state.handle = tell  # type: ignore[method-assign]  # listened to
    world.run()
    assert not recorder.dropped
    return records(recorder.take(world.now_us, last=True))


def lanes(figures: tuple[LaneFigures, ...]) -> dict[str, LaneFigures]:
    return {lane.lane: lane for lane in figures}


CASES = {
    "holding": (config(), config(hold_us=50_000)),
    "no holding": (config(hold_us=50_000), config()),
    "latency_first, from fifo": (config("fifo"), config()),
    "fifo, from latency_first": (config(), config("fifo")),
    "weighted_fair, from fifo": (config("fifo"), config("weighted_fair")),
    "deadline, from weighted_fair": (config("weighted_fair"), config("deadline")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_another_configuration_will_do_is_foretold(case: str) -> None:
    before, after = CASES[case]
    reality = read_load(mixed(decoding=3, training=2))
    was, real = recorded(reality, before), lanes(Recorded(recorded(reality, after)).figures().lanes)
    foretold = lanes(played(read_load(was), after).lanes)
    for lane, told in real.items():
        assert told.requests == foretold[lane].requests
        for name in HELD:
            assert getattr(foretold[lane], name) == pytest.approx(getattr(told, name), rel=0.15), f"{lane}: {name}"


def test_the_other_configurations_are_other_ones() -> None:
    """Had nothing changed, nothing would have been foretold: every case moves some figure by half at least."""
    reality = read_load(mixed(decoding=3, training=2))
    for before, after in CASES.values():
        one, other = (lanes(Recorded(recorded(reality, each)).figures().lanes) for each in (before, after))
        changes = [getattr(one[lane], name) / getattr(other[lane], name) for lane in other for name in HELD]
        assert max(changes) > 1.5


@pytest.mark.parametrize(("before", "often"), [(1, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("policy", ["latency_first", "fifo", "weighted_fair"])
def test_what_more_or_fewer_arrivals_will_do_is_foretold(policy: str, before: int, often: int) -> None:
    """Recorded at one rate, foretold at another: costs and thinking are learned, and waiting is not copied."""
    reality, settings = read_load(served(30, 1_500_000)), config(policy)
    was = recorded(reality, settings, arrivals=before)
    real = lanes(Recorded(recorded(reality, settings, arrivals=often)).figures().lanes)
    foretold = lanes(played(read_load(was), settings, arrivals=often / before).lanes)
    for lane, told in real.items():
        for name in HELD:
            assert getattr(foretold[lane], name) == pytest.approx(getattr(told, name), rel=0.15), f"{lane}: {name}"


def test_more_arrivals_are_another_load() -> None:
    """Else nothing would have been foretold."""
    reality, settings = read_load(served(30, 1_500_000)), config("fifo")
    one, three = (lanes(Recorded(recorded(reality, settings, arrivals=n)).figures().lanes) for n in (1, 3))
    assert three["inference"].rows_per_s > 2 * one["inference"].rows_per_s


def test_a_trace_without_prompts_has_no_arrivals() -> None:
    with pytest.raises(UsageError, match="one prompt after the other"):
        World(read_load(mixed()), config(), arrivals=2)


def test_arrivals_end_also_where_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit was another one when it was recorded, which ended after a prompt. Training goes on meanwhile."""
    trace = [tuple(8 if value == 256 else value for value in each) for each in served(3, 1_500_000, tokens=2)]
    last = max(at for at, record in enumerate(trace) if record[0] is Kind.ASK and record[6] == 32)
    looked, look = itertools.count(), World._look

    def look_so_often(world: World, device: Device, *, again: bool) -> None:
        assert next(looked) < 100_000, "it does not end"
        look(world, device, again=again)

    monkeypatch.setattr(World, "_look", look_so_often)
    few = msgspec.structs.replace(config(), limits=LimitsConfig(max_rows=16))
    lane = lanes(played(read_load(trace[: last + 3]), few, arrivals=2).lanes)["inference"]
    assert (lane.requests, lane.refused) == (2 * LAYERS, 3 * LAYERS)
