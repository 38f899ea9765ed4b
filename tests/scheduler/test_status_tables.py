"""What an operator reads of a daemon: whose every client is, and nothing that a client does to the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
import typer
from msgspec.structs import replace
from rich.console import Console, RenderableType
from rich.table import Table
from typer.testing import CliRunner

from symbiosis_core.ids import ClientId
from symbiosis_core.wire import DaemonStatus, StatusReply
from symbiosis_scheduler.commands.policy import policy
from symbiosis_scheduler.commands.status import client_table, lane_table, learned_lines
from symbiosis_scheduler.commands.status import status as show_status
from symbiosis_scheduler.commands.top import screen, top
from tests.core.messages import REPLIES


def daemon_with(name: str, user: str) -> DaemonStatus:
    reply = REPLIES["status_reply"]
    assert isinstance(reply, StatusReply)
    (client,) = reply.status.clients
    return replace(reply.status, clients=(replace(client, name=name, user=user),))


def printed(shown: RenderableType, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("user", ["alice", "key:alice", "tcp"])
def test_whose_a_client_is_stands_in_both_tables(user: str) -> None:
    status = daemon_with("job-7", user)
    for shown in (client_table(status), screen(status, status)):
        text = printed(shown)
        assert "user" in text
        assert f" {user} " in text


@pytest.mark.parametrize("name", ["[/]", "[red]boss", "two\nlines", "\x1b[2J\x1b]0;title\x07", "\x9b2J"])
def test_a_client_writes_nothing_but_its_name(name: str) -> None:
    """It chooses its name by itself: neither markup nor the terminal's own commands are obeyed."""
    status = daemon_with(name, "tcp")
    for shown in (client_table(status), screen(status, status)):
        text = printed(shown)
        assert "".join(sign if sign.isprintable() else "\ufffd" for sign in name) in text
        assert not set("\x1b\x9b\x07") & set(text)


def test_eighty_columns_hold_all_figures_of_lanes_and_clients() -> None:
    """Only names are shortened; and of more clients than there is room for the busiest are shown."""
    status = daemon_with("a-name-of-a-client-that-is-rather-long", "key:somebody")
    (client,) = status.clients
    others = [replace(client, id=ClientId(99 + n), name=f"c{n}", rows=10_000 * n) for n in range(40)]
    busy = replace(status, clients=(replace(client, p99_us=98_765), *others), uptime_s=status.uptime_s + 1)
    console = Console(file=io.StringIO(), width=80, height=24)
    assert isinstance(console.file, io.StringIO)
    console.print(screen(status, busy, most=8))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 24
    (heading,) = [line.split() for line in lines if line.startswith("client")]
    assert " ".join(heading) == "client user lane queued req/s rows/s refused p50 ms p99 ms"
    shown = [line.split() for line in lines if line.startswith("c3")]
    assert [line[0] for line in shown] == ["c39", "c38", "c37", "c36", "c35", "c34", "c33"]
    assert shown[0][5] == "390,000"
    assert lines[-1] == "and 34 more, who have fewer rows a second"
    console.print(screen(status, busy, most=1))
    assert console.file.getvalue().splitlines()[-1] == "41 clients, and no line for them"
    console.print(screen(status, busy))
    assert "98.77" in console.file.getvalue(), "without a limit all are there"


def test_eighty_columns_hold_all_figures_of_a_status() -> None:
    """With long names, large figures, two bases and two transports at once; what all have alike is left out."""
    status = daemon_with("a-name-of-a-client-that-is-rather-long", "key:somebody")
    (client,), (lane,), (model,) = status.clients, status.lanes, status.models
    large = {"requests": 123_456_789, "rows": 98_765_432_100, "refused": 1_234_567}
    first = replace(client, pid=4_194_304, p50_us=999.9, p99_us=98_765_432, **large)
    second = replace(first, id=ClientId(1234), transport="zmq_ipc", model="another", name="c2")
    alike = replace(status, clients=(first, replace(first, id=ClientId(4))))
    lanes = (replace(lane, name="a-lane-with-a-long-name", queued_rows=7_654_321, requests=5, rows=10**9),)
    mixed = replace(status, clients=(first, second), models=(model, replace(model, name="another")), lanes=lanes)
    assert headings(client_table(alike)) == "id name user lane pid requests rows queued refused p50 ms p99 ms"
    told = headings(client_table(mixed))
    assert told == "id name user model transport lane pid requests rows queued refused p50 ms p99 ms"
    for shown in (client_table(alike), client_table(mixed)):
        lines = printed(shown, width=80).splitlines()
        assert len(lines) == 4 and max(map(len, lines)) <= 80, "a line for each"
        assert "4194304   123.5M 98.8G      1    1.2M   1.00  98765" in lines[2]
    _, _, line = printed(lane_table(mixed), width=80).splitlines()
    assert line.split()[1:] == ["10", "1", "1", "7.7M", "5", "1.0G", "0"]


def headings(table: Table) -> str:
    return " ".join(str(column.header) for column in table.columns)


def test_holding_that_is_off_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = REPLIES["status_reply"]
    assert isinstance(reply, StatusReply)
    off = replace(reply.status, holds=replace(reply.status.holds, off=True))
    monkeypatch.setattr("symbiosis_scheduler.commands.status.fetch_status", lambda _: off)
    app = typer.Typer()
    app.command()(show_status)
    for text in (CliRunner().invoke(app, []).output, printed(screen(off, off))):
        assert "off: it did not pay" in text and "[red]" not in text


def test_which_lanes_go_together_is_said_and_sent_only_where_there_is_one() -> None:
    reply = REPLIES["status_reply"]
    assert isinstance(reply, StatusReply)
    holds = replace(reply.status.holds, together=("chat", "inference"))
    assert any(
        "all together: chat, inference" in line for line in learned_lines(replace(reply.status, holds=holds))
    )
    assert not any("together" in line for line in learned_lines(reply.status))
    assert b"together" in msgspec.msgpack.encode(holds)
    assert b"together" not in msgspec.msgpack.encode(reply.status.holds)


NAMES = ["[/]", "[/x] [b]", ":smile:", "two\nlines", "\x1b[2J"]


@pytest.mark.parametrize("name", NAMES)
def test_a_lane_is_shown_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the tables of a daemon that runs; a name in a configuration is any text."""
    reply = REPLIES["status_reply"]
    assert isinstance(reply, StatusReply)
    status = replace(reply.status, lanes=tuple([replace(lane, name=name) for lane in reply.status.lanes]))
    monkeypatch.setattr("symbiosis_scheduler.commands.status.fetch_status", lambda _: status)
    monkeypatch.setattr("symbiosis_scheduler.commands.top.fetch_status", lambda _: status)
    for command, options in ((show_status, []), (top, ["--looks", "1", "--every", "0.1"])):
        app = typer.Typer()
        app.command()(command)
        done = CliRunner().invoke(app, options)
        assert done.exit_code == 0 and shown(name) in done.output, done.output


def test_what_is_explained_for_a_gpu_says_nothing_of_lanes_side_by_side(tmp_path: Path) -> None:
    (file := tmp_path / "d.toml").write_text("")
    on_cpu, on_gpu = [CliRunner().invoke(policy, ["explain", str(file), *more]).stdout for more in ([], ["--gpu"])]
    assert "training waits for all lanes before it" not in on_cpu and "no batch: on a CPU" in on_cpu
    assert "training waits for all lanes before it" in on_gpu and "on a CPU they share" not in on_gpu


@pytest.mark.parametrize("name", NAMES)
def test_a_lane_is_explained_by_its_name(name: str, tmp_path: Path) -> None:
    file, quoted = tmp_path / "a.toml", json.dumps(name)
    file.write_text(f"[lanes.{quoted}]\npriority = 0\n")
    done = CliRunner().invoke(policy, ["explain", str(file)])
    assert done.exit_code == 0 and done.output.count(shown(name)) >= 2, done.output


def shown(name: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in name)
