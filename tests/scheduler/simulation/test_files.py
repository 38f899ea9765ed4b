"""A trace as a file, and the picture of a simulation."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import ClientId, OpId
from symbiosis_scheduler.commands.policy import policy
from symbiosis_scheduler.simulation.picture import draw
from symbiosis_scheduler.simulation.report import quantile
from symbiosis_scheduler.simulation.trace import VERSION, Kind, Sum, encode
from symbiosis_scheduler.simulation.trace_file import read_trace, records
from symbiosis_scheduler.simulation.world import World
from tests.scheduler.desk import Desk, arrival
from tests.scheduler.simulation.loads import mixed, recorded


def test_what_the_state_was_told_is_what_the_trace_tells() -> None:
    desk = Desk()
    desk.join(1)
    recorder = recorded(desk)
    desk.join(2, "inference")
    desk.arrive(1, arrival(slot=2, op=1, rows=3))
    desk.now_us = 50
    plans = desk.turn()
    desk.now_us = 80
    for plan in plans:
        desk.done(plan)
    desk.leave(2)
    assert records(recorder.take(1100, last=True)) == [
        (Kind.HEADER, VERSION, "m", False, 1),
        (Kind.JOIN, 0, 1, "training", "", ""),
        (Kind.JOIN, 0, 2, "inference", "", ""),
        (Kind.OP, 1, False),
        (Kind.ASK, 0, 1, 2, 1, 0, 3, 0),
        (Kind.BATCH, 80, 1, 0, 3, 30, 1, 50, 1),
        (Kind.ANSWER, 80, 1, 2, False),
        (Kind.LEAVE, 80, 2),
    ]
    assert recorder.take(1200) == b"" and not recorder.forgotten(1300)
    assert recorder.forgotten(1200 + 10_000_001)
    assert ClientId(1) in desk.state.known.travellers.all and OpId(1) not in desk.state.known.travellers.starts


def written(trace: Sequence[Sequence[Any]], *, pieces: int = 1) -> bytes:
    """Returns a trace as it is recorded, fetched in so many pieces."""
    total, data = Sum(), b""
    for piece in range(pieces):
        part = trace[len(trace) * piece // pieces : len(trace) * (piece + 1) // pieces]
        data += total.seal(b"".join(encode(*record) for record in part), last=piece == pieces - 1)
    return data


def test_a_file_is_read_as_it_was_written_and_is_small(tmp_path: Path) -> None:
    trace, path = mixed(forwards=1), tmp_path / "a.trace"
    for pieces in (1, 5):
        path.write_bytes(written(trace, pieces=pieces))
        assert read_trace(path) == trace == read_trace(path, torn=True)
    assert path.stat().st_size < 20 * len(trace)


def test_a_torn_file_is_refused_wherever_it_ends_and_its_whole_pieces_can_be_had(tmp_path: Path) -> None:
    trace, path = mixed(decoding=1, training=0, forwards=1), tmp_path / "a.trace"
    data, half = written(trace, pieces=2), len(written(trace[: len(trace) // 2]))
    for stop in range(1, len(data)):
        path.write_bytes(data[:stop])
        with pytest.raises(UsageError, match=r"is not whole|is no trace"):
            read_trace(path)
        if stop < half:
            with pytest.raises(UsageError, match=r"Nothing of it is left|is no trace"):
                read_trace(path, torn=True)
        else:
            assert read_trace(path, torn=True) == trace[: len(trace) // 2]
    told = f"first {half:,} of {half:,} bytes: {len(trace) // 2} records"
    path.write_bytes(data[:half])
    with pytest.raises(UsageError, match=f"ends before its recording did. .*{told}, of 0.0.* s. Play .* --torn"):
        read_trace(path)
    path.write_bytes(data + b"x")
    with pytest.raises(UsageError, match=r"it ends in the middle|more follows after its end"):
        read_trace(path)


def test_a_garbled_file_is_refused_whichever_byte_it_is(tmp_path: Path) -> None:
    """And what can be had of it are pieces before the first wrong byte, as they were written."""
    trace, path = mixed(decoding=1, training=0, forwards=1), tmp_path / "a.trace"
    data, dice = written(trace, pieces=3), random.Random(7)
    for at in range(len(data)):
        garbled = bytearray(data)
        garbled[at] ^= 1 << dice.randrange(8)
        path.write_bytes(garbled)
        with pytest.raises(UsageError, match=r"is not whole|is no trace|of version"):
            read_trace(path)
        if at >= 10:  # behind what says of which version it is
            try:
                left = read_trace(path, torn=True)
            except UsageError as error:
                assert "Nothing of it is left" in str(error) or "is no trace" in str(error)
                continue
            assert left == trace[: len(left)] and len(left) in [len(trace) * piece // 3 for piece in (1, 2, 3)]
            assert sum(len(encode(*record)) for record in left) <= at


def test_what_is_whole_of_a_torn_trace_is_played_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a configuration whose name is shown as it is."""
    monkeypatch.chdir(tmp_path)
    trace, path, settings = mixed(forwards=4), Path("a.trace"), Path("[b].toml")
    data = written(trace, pieces=2)
    path.write_bytes(data[:-1])
    settings.write_text("")
    arguments = ["simulate", str(path), "--policy", str(settings)]
    refused = CliRunner().invoke(policy, arguments)
    assert isinstance(refused.exception, UsageError) and "--torn" in str(refused.exception)
    done = CliRunner().invoke(policy, [*arguments, "--torn"])
    assert done.exit_code == 0 and "latency_first" in done.output and "[b].toml" in done.output, done.output


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"{}",
        b"\x03\x93\x01\x02",
        b"\x04\x93\x04\x01\xa1x",
        b"\xff" * 300,
        b"\x01\x90",
        b"\x02\x91\x90",
        b"\xff\x01\x00\x01\x00" + b"\x91" * 65536 + b"\x01",
    ],
)
def test_what_is_no_trace_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.trace"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"no trace"):
        read_trace(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none")


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [
        (Kind.HEADER, 4, 0),
        (Kind.OP, 1, -1),
        (Kind.ASK, 1, 1 << 63),
        (Kind.ASK, 4, 1 << 40),
        (Kind.ASK, 5, 7),
        (Kind.ASK, 6, -1),
        (Kind.ASK, 6, 1.5),
        (Kind.BATCH, 3, 3),
        (Kind.BATCH, 5, 1 << 60),
    ],
)
def test_a_number_that_cannot_be_is_told(tmp_path: Path, kind: Kind, at: int, value: float) -> None:
    """A fourth way, no plan in flight, an op of which there are not so many."""
    trace = [list(record) for record in mixed(forwards=1)]
    wrong = next(record for record in trace if record[0] == kind)
    wrong[at] = value
    path = tmp_path / "a.trace"
    path.write_bytes(written(trace))
    with pytest.raises(UsageError, match=r"is not whole: at byte \d+ is a record|no trace"):
        read_trace(path)


def test_a_request_in_no_direction_was_refused_and_is_in_no_trace() -> None:
    desk = Desk()
    desk.join(1)
    recorder = recorded(desk)
    strange = arrival(slot=2)
    strange = strange._replace(call=strange.call._replace(direction=7))  # type: ignore[arg-type]  # no direction
    desk.arrive(1, strange)
    assert {record[0] for record in records(recorder.take(1100, last=True))} == {Kind.HEADER, Kind.JOIN}


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError, match="is no file"):
            read_trace(path)


def test_a_trace_of_another_version_is_told_by_its_version(tmp_path: Path) -> None:
    """Whatever fields its header has: that of version 1 said nothing of what was computed beside."""
    path = tmp_path / "old.trace"
    headers: list[tuple[int | str | bool, ...]] = [(1, "a model"), (VERSION + 1, "a model", False, "more")]
    for header in headers:
        path.write_bytes(encode(Kind.HEADER, *header) + encode(Kind.OP, 0, True))
        told = f"is a trace of version {header[0]}, and 4 to {VERSION} are read"
        with pytest.raises(UsageError, match=told):
            read_trace(path)


def test_a_trace_of_version_4_is_read_as_it_was(tmp_path: Path) -> None:
    """It has directions where there are ways now, and that is all."""
    _, *rest = mixed(forwards=1)
    path, trace = tmp_path / "old.trace", [(Kind.HEADER, 4, "a model", False, 1), *rest]
    path.write_bytes(b"".join(encode(*record) for record in trace))
    assert read_trace(path) == trace
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UsageError, match="in the middle of a record"):
        read_trace(path)
    assert read_trace(path, torn=True) == trace[:-1]


def test_a_picture_has_a_line_for_everybody_and_is_svg() -> None:
    drawn = draw("a < b", [("one", [1.0, 10.0, 1000.0]), ("two & three", [5e6]), ("nobody", [])])
    root = ElementTree.fromstring(drawn)
    assert len(root.findall(".//{*}polyline")) == 2
    assert "two & three" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_lines_of_a_picture_can_be_told_apart() -> None:
    drawn = ElementTree.fromstring(draw("", [(str(number), [1.0, 2.0]) for number in range(32)]))

    def looks(tag: str) -> list[tuple[str | None, str]]:
        found = [(one.get("stroke"), one.get("stroke-dasharray")) for one in drawn.findall(f".//{{*}}{tag}")]
        return [(stroke, dashes) for stroke, dashes in found if dashes is not None]

    assert len(set(looks("polyline"))) == 32
    assert looks("line") == looks("polyline"), "the legend shows them as they are"


def test_files_of_one_name_are_told_apart_in_a_picture(tmp_path: Path) -> None:
    path, out = tmp_path / "a.trace", tmp_path / "out.svg"
    path.write_bytes(written(mixed(forwards=1)))
    given = ["simulate", str(path), "--plot", str(out)]
    for name in ("x/a", "y/a", "y/b"):
        file = tmp_path / f"{name}.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
        given += ["--policy", str(file)]
    assert CliRunner().invoke(policy, given).exit_code == 0
    texts = {(text.text or "").partition(" ")[0] for text in ElementTree.parse(out).findall(".//{*}text")}
    assert {"x/a", "y/a", "b"} <= texts


def test_quantiles() -> None:
    assert [quantile([1, 2, 3, 4], q) for q in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]
    assert quantile([], 0.5) == 0


def test_where_figures_cannot_go_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may take minutes, and its figures would be lost with it."""
    path, settings = tmp_path / "a.trace", tmp_path / "a.toml"
    path.write_bytes(written(mixed(forwards=1)))
    settings.write_text("")
    given = ["simulate", str(path), "--policy", str(settings)]

    def played(*_: object, **__: object) -> None:
        raise AssertionError("it was played")

    for option in ("--plot", "--json"):
        assert CliRunner().invoke(policy, [*given, option, str(tmp_path / "out")]).exit_code == 0
        with monkeypatch.context() as patched:
            patched.setattr(World, "run", played)
            error = CliRunner().invoke(policy, [*given, option, str(tmp_path)]).exception
        assert isinstance(error, UsageError) and f"cannot write {tmp_path}: Is a directory" in str(error)


def test_figures_of_before_stay_where_nothing_could_be_played(tmp_path: Path) -> None:
    path, settings, out = (tmp_path / name for name in ("a.trace", "a.toml", "out.json"))
    path.write_bytes(trace := written(mixed(forwards=1)))
    settings.write_text("")
    out.write_text("figures")
    given = ["--policy", str(settings), "--json"]
    assert CliRunner().invoke(policy, ["simulate", str(tmp_path / "b.trace"), *given, str(out)]).exit_code != 0
    assert out.read_text() == "figures"
    error = CliRunner().invoke(policy, ["simulate", str(path), *given, str(path)]).exception
    assert isinstance(error, UsageError) and "which is read" in str(error)
    assert path.read_bytes() == trace


def test_no_file_that_is_read_is_written_and_none_twice(tmp_path: Path) -> None:
    path, settings, linked = (tmp_path / name for name in ("a.trace", "a.toml", "b.toml"))
    path.write_bytes(written(mixed(forwards=1)))
    settings.write_text("# mine")
    linked.hardlink_to(settings)
    given = ["simulate", str(path), "--policy", str(settings)]
    for out in (settings, linked, tmp_path / "x" / ".." / "a.toml", path):
        error = CliRunner().invoke(policy, [*given, "--plot", str(out)]).exception
        assert isinstance(error, UsageError) and "which is read" in str(error)
    error = (
        CliRunner()
        .invoke(policy, [*given, "--json", str(tmp_path / "z"), "--plot", str(tmp_path / "z")])
        .exception
    )
    assert isinstance(error, UsageError) and "written, too" in str(error)
    assert settings.read_text() == "# mine" and not (tmp_path / "z").exists()


def test_files_are_written_also_where_nobody_reads_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings, out = (tmp_path / name for name in ("a.trace", "a.toml", "out.json"))
    path.write_bytes(written(mixed(forwards=1)))
    settings.write_text("")

    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("symbiosis_scheduler.commands.simulation.show", gone)
    done = CliRunner().invoke(policy, ["simulate", str(path), "--policy", str(settings), "--json", str(out)])
    assert done.exit_code != 0 and out.read_text().startswith("[")


def test_prompts_that_arrive_are_as_many_as_in_the_trace(tmp_path: Path) -> None:
    given = ["simulate", "a.trace", "--policy", "a.toml", "--arrivals", "2", "--requests", "9"]
    error = CliRunner().invoke(policy, given).exception
    assert isinstance(error, UsageError) and "leave --requests or --arrivals out" in str(error)
