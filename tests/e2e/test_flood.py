"""A real daemon under a flood: which batches of others a request of the same lane waits for, by its own trace.

Counted; and timed only against what batches took in the same trace: such bounds are the same on a busy machine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, quantiles
from typing import Any, NamedTuple

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.wire import Configure
from symbiosis_scheduler.simulation.fetching import fetch_trace
from symbiosis_scheduler.simulation.trace import Kind
from symbiosis_scheduler.simulation.trace_file import records
from symbiosis_transports.zmq_link import ControlClient
from tests.e2e.daemon_process import DaemonProcess

LANE = "training"
FORWARDS = 40
CHUNK_ROWS = 64
SLOTS = 4
"""Of each client. A slot holds 85 rows, so a call of more is published in pieces, so many at once."""
FLOODS: dict[str, list[tuple[int, int]]] = {
    "faster": [(1, 1)],
    "larger": [(8, 100)],
    "more clients": [(1, 1), (8, 100), (4, 40)],
}
"""The shapes of what each flooding client asks for, again and again."""


def settings(policy: str) -> str:
    return (
        f'[policy]\nname = "{policy}"\n[lanes.{LANE}]\npriority = 0\nchunk_rows = {CHUNK_ROWS}\n'
        f"[batching]\nmax_rows = {CHUNK_ROWS}\n[limits]\nslots = {SLOTS}\nslot_bytes = 65_536\n"
    )


@pytest.fixture(scope="module")
def daemon(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("d")
    file = folder / "daemon.toml"
    file.write_text(settings("latency_first"))
    daemon = DaemonProcess(folder, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


def flood(address: str, shape: tuple[int, int], at_work: threading.Event, stop: threading.Event) -> None:
    """Asks for the same as fast as it can until told to stop."""
    model = AutoModelForCausalLM.from_pretrained(address, lane=LANE, name="flood")
    with torch.no_grad():
        while not stop.is_set():
            model(torch.ones(shape, dtype=torch.int64)).logits.sum().item()
            at_work.set()
    model.symbiosis.close()


def recorded_beside(address: str, shapes: list[tuple[int, int]]) -> list[tuple[Any, ...]]:
    """Returns what the daemon did while one client made forwards of one row, and others flooded it."""
    victim = AutoModelForCausalLM.from_pretrained(address, lane=LANE, name="victim")
    stop, done, pieces = threading.Event(), threading.Event(), list[bytes]()
    begun = [threading.Event() for _ in shapes]
    floods = [
        threading.Thread(target=flood, args=(address, *each, stop)) for each in zip(shapes, begun, strict=True)
    ]

    def work() -> None:
        with torch.no_grad():
            for _ in range(FORWARDS):
                victim(torch.ones((1, 1), dtype=torch.int64)).logits.sum().item()
        done.set()

    for thread in floods:
        thread.start()
    try:
        assert all(each.wait(60) for each in begun)
        worker = threading.Thread(target=work)
        with ControlClient(address) as link:
            worker.start()
            assert fetch_trace(link, pieces.append, done.wait) == 0
        worker.join(60)
    finally:
        stop.set()
        for thread in floods:
            thread.join(60)
    victim.symbiosis.close()
    return records(b"".join(pieces))


class Waits(NamedTuple):
    """What the victim waited for."""

    took_us: list[list[int]]
    """For each of its requests, what batches of others took that were done from when it was published on."""
    own_us: list[int]
    """What its own batches took."""
    others_us: list[int]
    """What all batches of others took."""

    @property
    def most(self) -> int:
        """For how many batches of others a request waited at most."""
        return max(map(len, self.took_us))


def waited_for(trace: list[tuple[Any, ...]]) -> Waits:
    """Returns what each of the victim's requests waited for, from when it was published."""
    [victim] = [record[2] for record in trace if record[0] == Kind.JOIN and record[5] == "victim"]
    batches = [record for record in trace if record[0] in (Kind.BATCH, Kind.BESIDE)]
    own_us = [record[5] for record in batches if record[8] == victim]
    others = [(record[1], record[5]) for record in batches if record[8] != victim]
    asked: dict[int, int] = {}
    found: list[list[int]] = []
    for kind, us, client, slot, *rest in (record for record in trace if record[0] in (Kind.ASK, Kind.ANSWER)):
        if client == victim and kind == Kind.ASK:
            asked[slot] = us - rest[-1]
        elif client == victim and slot in asked:
            since_us = asked.pop(slot)
            found.append([took_us for done_us, took_us in others if since_us < done_us <= us])
    return Waits(found, own_us, [took_us for _, took_us in others])


@pytest.mark.parametrize("policy", ["latency_first", "deadline"])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_request_waits_for_one_batch_of_each_that_floods_and_for_the_one_under_way(
    daemon: DaemonProcess, kind: str, policy: str
) -> None:
    """However large, fast or many their requests are."""
    shapes = FLOODS[kind]
    assert waits(daemon, policy, shapes).most <= len(shapes) + 1


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_gets_as_much_time_as_its_neighbour_and_a_batch(daemon: DaemonProcess, kind: str) -> None:
    """`weighted_fair` counts time: who has got less goes first, perhaps with several batches that are small.

    Those are never more than a forward's, which has all ops that the neighbour's has.
    """
    found, floods = waits(daemon, "weighted_fair", FLOODS[kind]), len(FLOODS[kind])
    trips = -(-len(found.took_us) // FORWARDS)
    assert found.most <= floods * trips + 1
    assert nine_of_ten(found) <= floods + 1
    waited_us = mean([sum(each) for each in found.took_us])
    assert waited_us <= floods * mean(found.own_us) + (floods + 1) * mean(found.others_us), "and one under way"


def test_who_came_first_is_served_first_where_there_are_no_turns(daemon: DaemonProcess) -> None:
    """The measure sees what it is there to see: all that a flood has published is computed before."""
    assert waits(daemon, "fifo", FLOODS["larger"]).most > 2


def nine_of_ten(found: Waits) -> float:
    """Returns for how many batches of others nine of ten requests wait at most."""
    return quantiles(map(len, found.took_us), n=10)[-1]


def waits(daemon: DaemonProcess, policy: str, shapes: list[tuple[int, int]]) -> Waits:
    """Returns what the requests of a client waited for beside a flood, under a policy."""
    with ControlClient(daemon.address) as link:
        link.ask(Configure("flood", settings(policy)))
    found = waited_for(recorded_beside(daemon.address, shapes))
    assert len(found.took_us) > FORWARDS and daemon.status().policy == policy
    return found
