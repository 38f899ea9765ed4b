"""`batching.exact` is applied to a daemon at work, while a request of it stands between two chunks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.wire import Configure
from symbiosis_scheduler.simulation.fetching import fetch_trace
from symbiosis_scheduler.simulation.trace import Kind
from symbiosis_scheduler.simulation.trace_file import records
from symbiosis_transports.zmq_link import ControlClient
from tests.e2e.daemon_process import DaemonProcess

ROWS: Final = 100
CHUNK_ROWS: Final = 3
LONGEST_S: Final = 60.0


def settings(*, exact: bool) -> str:
    lane = f"[lanes.inference]\npriority = 0\nchunk_rows = {CHUNK_ROWS}\n"
    return f"{lane}[batching]\nexact = {str(exact).lower()}\n"


@pytest.fixture
def daemon(tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    file = tmp_path / "daemon.toml"
    file.write_text(settings(exact=False))
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


def rests(trace: bytes) -> list[int]:
    """Returns the rows of batches larger than a chunk and smaller than a request: what was left of one."""
    batches = [record[4] for record in records(trace) if record[0] == Kind.BATCH]
    return [rows for rows in batches if CHUNK_ROWS < rows < ROWS]


def test_a_request_between_two_chunks_is_ended_whole_and_nothing_is_lost(daemon: DaemonProcess) -> None:
    """To and fro, twenty times, by the daemon's own trace; every forward has the logits of one that was alone."""
    model = AutoModelForCausalLM.from_pretrained(daemon.address, lane="inference", name="one")
    ids = torch.arange(ROWS).view(1, ROWS)
    found: list[torch.Tensor] = []
    stop, pieces = threading.Event(), list[bytes]()

    def work() -> None:
        with torch.no_grad():
            while not stop.is_set():
                found.append(model(input_ids=ids).logits.clone())

    with torch.no_grad(), ControlClient(daemon.address) as link:
        link.ask(Configure("alone", settings(exact=True)))
        alone = model(input_ids=ids).logits.clone()
    worker = threading.Thread(target=work)

    def change() -> None:
        until_s = time.monotonic() + LONGEST_S
        with ControlClient(daemon.address) as link:
            for _ in range(20):
                link.ask(Configure("chunks", settings(exact=False)))
                before = len(found)
                while len(found) < before + 2 and worker.is_alive() and time.monotonic() < until_s:
                    time.sleep(0.001)
                link.ask(Configure("exact", settings(exact=True)))
        stop.set()

    changer = threading.Thread(target=change)
    worker.start()
    changer.start()
    with ControlClient(daemon.address) as link:
        assert fetch_trace(link, pieces.append, stop.wait) == 0
    changer.join(LONGEST_S)
    worker.join(LONGEST_S)
    assert not worker.is_alive() and len(found) > 40
    for logits in found:
        torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)
    (client,) = daemon.status().clients
    assert (client.refused, client.queued) == (0, 0)
    trace = b"".join(pieces)
    kinds = [record[0] for record in records(trace)]
    assert kinds.count(Kind.ASK) - kinds.count(Kind.ANSWER) in (-1, 0, 1), (
        "but for what was open at an end of the trace"
    )
    assert rests(trace), "some request was ended in one, behind its first chunks"
    model.symbiosis.close()
