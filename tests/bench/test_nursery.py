"""Forked contenders compute what one process alone computes, and end with their nursery."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest

from symbiosis_bench.end_to_end.crew import Crew, wait_ready
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Made, Shape, Train, Trained, read_message
from symbiosis_bench.end_to_end.settings import QUICK
from symbiosis_bench.processes import Child, Children

MODULE = "symbiosis_bench.end_to_end"
WITHIN_S = 60.0


@pytest.mark.parametrize("kind", ["forked", "copied"])
def test_members_work_at_once_and_end_together(tmp_path: Path, kind: str) -> None:
    with Children(tmp_path, read_message) as children:

        def start(name: str, module: str, *options: str) -> Child:
            environment = {**os.environ, "OMP_NUM_THREADS": "2"}
            return children.start(name, [sys.executable, "-m", f"{MODULE}.{module}", *options], environment)

        shape = msgspec.json.encode(QUICK.tiny_base).decode()
        start("base", "bases", "make", str(tmp_path / "base"), "--shape", shape, "--dtype", "float32")
        heard = children.hear(WITHIN_S)
        assert heard == ("base", Made(str(tmp_path / "base")))
        given = ["--folder", str(tmp_path / "base"), "--dtype", "float32"]
        crew = Crew(Kind(kind), children, [start(kind, "nursery", kind, *given, "--members", "2")], forks=2)
        alone = Crew(Kind.PLAIN, children, [start("alone", "worker", "plain", *given, "--client", "1")])
        wait_ready(children, [crew, alone])
        assert crew.ready[1].adapter == alone.ready[0].adapter != crew.ready[0].adapter
        assert [ready.torch_threads for ready in crew.ready] == [2, 2]
        trained = crew.perform(Trained, Train(Shape(1, 8), 2))
        assert trained[1].losses == pytest.approx(alone.perform(Trained, Train(Shape(1, 8), 2))[0].losses)
        decoded = crew.perform(Decoded, Decode(4))
        assert decoded[1].tokens == alone.perform(Decoded, Decode(4))[0].tokens
        members = forks_of(crew.pids[0])
        assert len(members) == 2
        os.kill(crew.pids[0], signal.SIGKILL)
        deadline = time.monotonic() + WITHIN_S
        while any(alive(pid) for pid in members):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def forks_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """A process that has ended may be left until a busy init takes notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
