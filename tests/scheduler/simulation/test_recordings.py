"""One recording at a time: how it is begun, fetched and ended, and what becomes of the file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner, Result

from symbiosis_core.errors import BusyError, DaemonGoneError, RefusedError, UsageError
from symbiosis_core.ids import ClientId
from symbiosis_core.wire import Reply, Request, TakeTrace
from symbiosis_scheduler.commands.trace import trace
from symbiosis_scheduler.decisions.events import Arrived
from symbiosis_scheduler.simulation.fetching import fetch_trace
from symbiosis_scheduler.simulation.recordings import Recordings
from symbiosis_scheduler.simulation.trace import Kind
from symbiosis_scheduler.simulation.trace_file import read_trace, records
from tests.scheduler.desk import Desk, arrival


class Daemon:
    """The control plane's part: it carries what is asked to the recordings. Dies at the `gone_at`-th question."""

    def __init__(self, gone_at: int = -1) -> None:
        self.desk = Desk()
        self.recordings = Recordings(self.desk.state)
        self.asked = 0
        self._gone_at = gone_at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, request: Request) -> Reply:
        assert isinstance(request, TakeTrace)
        self.asked += 1
        if self.asked == self._gone_at:
            raise DaemonGoneError("d.sock", "it was killed")
        return self.recordings.take(request, "m", self.desk.now_us)


def looks(count: int) -> Any:
    """Returns a `wait` that says so many times that it is not enough."""
    left = iter(range(count))
    return lambda _: next(left, None) is None


def tell(daemon: Daemon, client: int) -> None:
    """A request arrives, and is noted as the data plane does it."""
    event = Arrived(ClientId(client), [arrival(slot=client, op=1)], daemon.desk.now_us)
    instructions = daemon.desk.tell(event)
    if daemon.recordings.under_way:
        daemon.recordings.note(event, instructions, daemon.desk.now_us)


def test_what_is_told_while_a_recording_is_under_way_is_in_it_and_nothing_else() -> None:
    daemon, pieces = Daemon(), list[bytes]()
    for client in (1, 2, 3):
        daemon.desk.join(client)
    tell(daemon, 1)

    def wait(_: float) -> bool:
        tell(daemon, 2)
        return True

    assert fetch_trace(daemon, pieces.append, wait) == 0
    tell(daemon, 3)
    kinds = [record[0] for record in records(b"".join(pieces))]
    assert kinds == [Kind.HEADER, Kind.JOIN, Kind.JOIN, Kind.JOIN, Kind.OP, Kind.ASK]
    assert not daemon.recordings.under_way


def test_one_records_at_a_time_and_who_is_forgotten_makes_room() -> None:
    daemon = Daemon()
    daemon.ask(TakeTrace(0))
    with pytest.raises(BusyError, match="recording already") as busy:
        fetch_trace(daemon, list[bytes]().append, looks(0))
    daemon.desk.now_us += int(busy.value.retry_after_s * 1e6) + 1
    assert fetch_trace(daemon, list[bytes]().append, looks(0)) == 0
    with pytest.raises(RefusedError, match="has ended"):
        daemon.ask(TakeTrace(1))


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_however_a_recording_ends_another_one_can_begin(fails_at: int) -> None:
    """The first piece cannot be written, the second one, or the last."""
    daemon, written = Daemon(), list[bytes]()

    def write(data: bytes) -> None:
        written.append(data)
        if len(written) == fails_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_trace(daemon, write, looks(1))
    assert not daemon.recordings.under_way


def test_a_daemon_that_goes_in_the_middle_is_told() -> None:
    daemon = Daemon(gone_at=2)
    with pytest.raises(DaemonGoneError):
        fetch_trace(daemon, list[bytes]().append, looks(5))
    assert daemon.asked == 3, "the last question was to end it, whoever may hear that"


@pytest.fixture
def _signals() -> Iterator[None]:
    """As they are for somebody at a terminal. nohup has SIGHUP ignored, and a shell's `&` SIGINT."""
    plain: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    handlers = {number: signal.signal(number, handler) for number, handler in plain.items()}
    yield
    for number, before in handlers.items():
        signal.signal(number, before)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    path = tmp_path / "a.trace"
    path.write_bytes(b"an hour's recording")
    return path


def record(monkeypatch: pytest.MonkeyPatch, daemon: Daemon, out: Path, seconds: float = 0.1) -> Result:
    monkeypatch.setattr("symbiosis_transports.zmq_link.ControlClient", lambda _: daemon)
    return CliRunner().invoke(trace, ["record", str(out), "--address", "x", "--seconds", str(seconds)])


def test_who_is_refused_still_has_the_trace_of_before(monkeypatch: pytest.MonkeyPatch, before: Path) -> None:
    daemon = Daemon()
    daemon.ask(TakeTrace(0))
    assert isinstance(record(monkeypatch, daemon, before).exception, BusyError)
    assert before.read_bytes() == b"an hour's recording"
    daemon.ask(TakeTrace(1, stop=True))
    assert record(monkeypatch, daemon, before).exit_code == 0
    assert records(before.read_bytes())[0][0] == Kind.HEADER


def test_what_was_recorded_until_the_daemon_was_gone_is_told_and_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, daemon = tmp_path / "a.trace", Daemon(gone_at=2)
    done = record(monkeypatch, daemon, out, seconds=60)
    assert isinstance(done.exception, DaemonGoneError) and f"{out} has what was recorded" in done.output
    with pytest.raises(UsageError, match="ends before its recording did"):
        read_trace(out)
    assert read_trace(out, torn=True)[0][0] == Kind.HEADER


def test_a_file_that_cannot_be_written_is_told_and_ends_the_recording(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for out in (tmp_path / "no folder" / "a.trace", Path("/dev/full")):
        daemon = Daemon()
        error = record(monkeypatch, daemon, out).exception
        assert isinstance(error, UsageError) and f"cannot write {out}" in str(error)
        assert not daemon.recordings.under_way


class Signalled(Daemon):
    """A signal comes while the n-th question is answered, and as often as is wanted."""

    def __init__(self, number: int, at: int, times: int = 1) -> None:
        super().__init__()
        self._number, self._at, self._times = number, at, times

    def ask(self, request: Request) -> Reply:
        reply = super().ask(request)
        if self.asked == self._at:
            for _ in range(self._times):
                signal.raise_signal(self._number)
        return reply


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_recording_and_keeps_all_of_it(
    number: signal.Signals, at: int, monkeypatch: pytest.MonkeyPatch, before: Path
) -> None:
    """Wherever it comes: the piece that is on its way is written, and then the end."""
    handlers = [signal.getsignal(each) for each in signal.Signals]
    daemon = Signalled(number, at)
    done = record(monkeypatch, daemon, before, seconds=3600)
    assert done.exit_code == 0 and f"{before}: " in done.output
    assert records(before.read_bytes())[0][0] == Kind.HEADER and not daemon.recordings.under_way
    assert daemon.asked == at + 1, "the last question was to end it"
    assert handlers == [signal.getsignal(each) for each in signal.Signals]


@pytest.mark.usefixtures("_signals")
def test_a_second_signal_ends_it_at_once_and_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, before: Path
) -> None:
    daemon = Signalled(signal.SIGINT, at=2, times=2)
    done = record(monkeypatch, daemon, before, seconds=3600)
    assert done.exit_code != 0 and "--torn" in done.output
    assert not daemon.recordings.under_way and read_trace(before, torn=True)[0][0] == Kind.HEADER


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch, before: Path) -> None:
    """As under nohup."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        daemon = Signalled(signal.SIGHUP, at=1)
        assert record(monkeypatch, daemon, before, seconds=0.6).exit_code == 0
        assert daemon.asked > 2
    finally:
        signal.signal(signal.SIGHUP, handler)
