"""Children are heard, their failures are told with their last words, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from symbiosis_bench.demo.progress import Finished, Message, Step, decode
from symbiosis_bench.processes import Child, ChildFailedError, Children

WITHIN_S = 30.0
ENDLESS = "import time\nwhile True: time.sleep(0.05)"
DEAF = f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{{"type":"finished"}}', flush=True)
{ENDLESS}
"""
ORDERLY = """
import signal, sys, time
from symbiosis_bench.demo.progress import Finished, Step
from symbiosis_bench.lines import Reporter
reporter = Reporter()
def finish(*_):
    reporter.tell(Finished("/out/it"))
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
reporter.tell(Step(1, 2.0, 96))
while True: time.sleep(0.05)
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children[Message]]:
    with Children(tmp_path, decode) as made:
        yield made


def start(children: Children[Message], script: str, name: str = "tenant", *, speaks: bool = True) -> Child:
    return children.start(name, [sys.executable, "-c", script], os.environ, speaks=speaks)


def alive(pid: int) -> bool:
    """A process that has ended may be left until a busy init takes notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hear(children: Children[Message], count: int) -> list[tuple[str, Message]]:
    heard: list[tuple[str, Message]] = []

    def heard_all() -> bool:
        heard.extend(children.received())
        return len(heard) >= count

    wait(heard_all)
    return heard


def test_what_children_say_is_received_with_who_said_it(children: Children[Message]) -> None:
    start(children, ORDERLY, "one")
    start(children, ORDERLY, "two")
    assert sorted(hear(children, 2)) == [("one", Step(1, 2.0, 96)), ("two", Step(1, 2.0, 96))]
    children.check()


def test_a_child_that_dies_is_told_with_its_last_words(children: Children[Message]) -> None:
    child = start(
        children, "import sys\nfor i in range(100): print('line', i, file=sys.stderr)\nraise SystemExit(7)"
    )
    wait(lambda: child.ended)
    with pytest.raises(ChildFailedError) as failed:
        children.check()
    assert (failed.value.name, failed.value.reason) == ("tenant", "ended with status 7 while it was needed")
    assert failed.value.tail.splitlines() == [f"line {i}" for i in range(80, 100)]
    assert str(failed.value).endswith("line 98\nline 99")


def test_a_child_that_is_killed_is_told_by_its_signal(children: Children[Message]) -> None:
    child = start(children, ENDLESS)
    os.kill(child.pid, signal.SIGKILL)
    wait(lambda: child.ended)
    with pytest.raises(ChildFailedError, match="was ended by SIGKILL while it was needed; it wrote nothing"):
        children.check()


def test_a_child_that_ends_well_but_early_has_failed_too(children: Children[Message]) -> None:
    child = start(children, "pass")
    wait(lambda: child.ended)
    with pytest.raises(ChildFailedError, match="ended with status 0"):
        children.check()


def test_what_is_no_message_is_an_error(children: Children[Message]) -> None:
    start(children, f"print('hello', flush=True)\n{ENDLESS}")
    with pytest.raises(ChildFailedError, match="said 'hello', which is no message"):
        hear(children, 1)


def test_a_child_that_does_not_speak_writes_into_its_log(children: Children[Message], tmp_path: Path) -> None:
    child = start(children, "import sys\nprint('out')\nprint('err', file=sys.stderr)", speaks=False)
    wait(lambda: child.ended)
    assert sorted((tmp_path / "tenant.log").read_text().split()) == ["err", "out"]
    assert list(children.received()) == []


def test_finishing_waits_for_the_last_word(children: Children[Message]) -> None:
    made = [start(children, ORDERLY, name) for name in ("one", "two")]
    hear(children, 2)
    children.finish(made, WITHIN_S)
    assert sorted(children.received()) == [("one", Finished("/out/it")), ("two", Finished("/out/it"))]


def test_a_child_that_fails_to_finish_is_told(children: Children[Message]) -> None:
    child = start(children, ENDLESS)
    with pytest.raises(ChildFailedError, match="was ended by SIGTERM"):
        children.finish([child], WITHIN_S)


def test_a_child_that_does_not_finish_in_time_is_told(children: Children[Message]) -> None:
    child = start(children, DEAF)
    hear(children, 1)
    with pytest.raises(ChildFailedError, match=r"has not finished within 0\.1 s"):
        children.finish([child], 0.1)
    os.kill(child.pid, signal.SIGKILL)  # spares the fixture ten seconds of patience


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_leaving_by_an_error_ends_every_child(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Children(tmp_path, decode) as children:
        pids = [start(children, ENDLESS, name).pid for name in ("one", "two", "three")]
        raise error
    assert not any(alive(pid) for pid in pids)


def test_ctrl_c_while_a_child_is_being_started_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is there, and nobody has written it down yet."""
    start_it, pids = Child.__init__, list[int]()

    def interrupted(child: Child, *arguments: Any) -> None:
        start_it(child, *arguments)
        pids.append(child.pid)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Child, "__init__", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), Children(tmp_path, decode) as children:
            start(children, ENDLESS)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pids) == 1
    assert not alive(pids[0])


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    child = Child("deaf", [sys.executable, "-c", DEAF], os.environ, tmp_path / "log", None)
    wait(lambda: b"finished" in (tmp_path / "log").read_bytes())
    child.stop(within_s=0.1)
    assert not alive(child.pid)


def test_stopping_twice_is_fine(tmp_path: Path) -> None:
    child = Child("tenant", [sys.executable, "-c", ENDLESS], os.environ, tmp_path / "log", None)
    child.stop(WITHIN_S)
    child.stop(WITHIN_S)


def test_a_child_that_ended_can_be_told_something(children: Children[Message]) -> None:
    """It may end at any moment; that it did is for `check` to find."""
    child = start(children, "pass")
    wait(lambda: child.ended)
    child.write(b"nobody listens")


def test_a_demo_that_is_killed_leaves_no_tenant_behind(tmp_path: Path) -> None:
    """SIGKILL lets nobody tidy up; the tenants notice the end of their standard input."""
    tenant = "from symbiosis_bench.demo.orders import Orders\nOrders().wait_start()"
    demo = textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        from symbiosis_bench.demo.progress import decode
        from symbiosis_bench.processes import Children
        with Children(Path({str(tmp_path)!r}), decode) as children:
            for name in ("one", "two"):
                child = children.start(name, [sys.executable, "-c", {tenant!r}], os.environ)
                print(child.pid, flush=True)
            sys.stdin.read()
    """)
    with subprocess.Popen([sys.executable, "-c", demo], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        pids = [int(started.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        started.kill()
    wait(lambda: not any(alive(pid) for pid in pids))
