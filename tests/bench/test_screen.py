"""A log gets every phase once and the figures now and then; a terminal gets one picture, gone at the end."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from symbiosis_bench.demo.screen import LiveScreen, PlainScreen, open_screen
from tests.bench.samples import outcome


def test_a_phase_is_logged_once_however_often_it_is_told() -> None:
    console = Console(file=io.StringIO(), width=80)
    with PlainScreen(console) as screen:
        for elapsed_s in range(9):
            screen.say("starting [a] daemon", elapsed_s)
        screen.say("tenants open it")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "starting [a] daemon\ntenants open it\n"


def test_figures_are_logged_every_five_seconds() -> None:
    console = Console(file=io.StringIO(), width=80)
    with PlainScreen(console) as screen:
        for elapsed_s in range(1, 13):
            screen.show(msgspec.structs.replace(outcome([4.0]).standing, elapsed_s=float(elapsed_s)))
    assert isinstance(console.file, io.StringIO)
    shown = [line for line in console.file.getvalue().splitlines() if " of 10 s" in line]
    assert shown == ["5 of 10 s", "10 of 10 s"]


def test_a_terminal_gets_a_live_picture_and_its_cursor_back() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    screen = open_screen(console)
    assert isinstance(screen, LiveScreen)
    with screen:
        screen.say("starting a daemon", 3.0)
        screen.show(outcome([4.0, 1.0]).standing)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "persona" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_what_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(open_screen(Console(file=io.StringIO())), PlainScreen)
