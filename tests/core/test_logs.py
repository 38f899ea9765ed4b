"""A log line is one event and its pairs, and no value can forge another line or pair."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbiosis_core.errors import UsageError
from symbiosis_core.logs import ENVIRONMENT, LEVELS, event, get_logger, setup

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) (\S+) (.*)\n")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    root = logging.getLogger("symbiosis")
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_stands_before_its_pairs_in_the_order_given() -> None:
    assert str(event("client attached", client=3, lane="training")) == "client attached client=3 lane=training"


def test_an_event_may_stand_alone() -> None:
    assert str(event("ready")) == "ready"


def test_a_pair_may_be_called_name() -> None:
    assert str(event("hello", name="job")) == "hello name=job"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("C:\\x", r'"C:\\x"'),
        ("line\nbreak", r'"line\nbreak"'),
        ("\x1b[31mred", r'"\u001b[31mred"'),
        ("a\x7fb", r'"a\u007fb"'),
        ("a\u2028b", r'"a\u2028b"'),
        ("\udcff", r'"\udcff"'),
        ("größe", "größe"),
        (1.5, "1.5"),
        (None, "None"),
        (OSError(2, "No such file"), '"[Errno 2] No such file"'),
    ],
)
def test_a_value_that_is_no_plain_word_is_quoted(value: object, written: str) -> None:
    assert str(event("e", key=value)) == f"e key={written}"


@settings(max_examples=200, deadline=None)
@given(st.text('a ="\\\n\r\t\x00\x1b\x7f\x85\u2028\ud800\u00e9', max_size=12), st.integers())
def test_every_value_can_be_read_back_from_one_line(text: str, number: int) -> None:
    line = str(event("e", text=text, number=number))
    assert line.isprintable()
    match = re.fullmatch(r'e text=("(?:[^"\\]|\\.)*"|[^ "=\\]+) number=(-?\d+)', line)
    assert match
    assert (json.loads(match[1]) if match[1].startswith('"') else match[1]) == text
    assert int(match[2]) == number


@pytest.mark.parametrize(
    ("module", "logger"),
    [
        ("symbiosis_core.kernel", "symbiosis.core.kernel"),
        ("symbiosis_transports.posix_shm", "symbiosis.transports.posix_shm"),
        ("symbiosis_core", "symbiosis.core"),
        ("symbiosis", "symbiosis"),
        ("symbiosis.core", "symbiosis.core"),
        ("third_party", "symbiosis.third_party"),
    ],
)
def test_all_modules_log_below_one_logger(module: str, logger: str) -> None:
    assert get_logger(module).name == logger


def test_a_line_has_time_level_logger_and_event() -> None:
    stream = io.StringIO()
    setup(stream=stream)
    get_logger("symbiosis_core.test").warning(event("client left", client=3))
    match = LINE.fullmatch(stream.getvalue())
    assert match
    assert match.groups() == ("WARNING", "symbiosis.core.test", "client left client=3")


@pytest.fixture
def _far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XXX-5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_far_from_greenwich")
def test_times_are_in_utc_wherever_the_machine_stands() -> None:
    stream = io.StringIO()
    setup(stream=stream)
    moment = {"created": 0.123, "msecs": 123, "levelno": logging.INFO, "levelname": "INFO", "msg": event("e")}
    get_logger("symbiosis_core.test").handle(logging.makeLogRecord({**moment, "name": "symbiosis.core.test"}))
    assert stream.getvalue() == "1970-01-01T00:00:00.123Z INFO symbiosis.core.test e\n"


def logged(level: str | None = None) -> set[str]:
    stream = io.StringIO()
    setup(level, stream)
    log = get_logger("symbiosis_core.test")
    for name in LEVELS:
        getattr(log, name)(event("e"))
    return {LINE.fullmatch(line)[1].lower() for line in stream.getvalue().splitlines(keepends=True)}  # type: ignore[index]


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_below_the_level_is_not_logged(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = set(LEVELS[LEVELS.index(level) :])
    assert logged(level) == expected
    monkeypatch.setenv(ENVIRONMENT, level.upper())
    assert logged() == expected


def test_info_is_logged_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged() == {"info", "warning", "error"}
    monkeypatch.setenv(ENVIRONMENT, "")
    assert logged() == {"info", "warning", "error"}


def test_the_program_has_the_last_word_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "debug")
    assert logged("error") == {"error"}


def test_an_unknown_level_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="log level is 'loud'; it may be debug, info, warning, error"):
        setup("loud")
    monkeypatch.setenv(ENVIRONMENT, "loud")
    with pytest.raises(UsageError, match="SYMBIOSIS_LOG is 'loud'"):
        setup()


def test_setting_up_again_replaces_the_stream_and_keeps_other_handlers() -> None:
    first, second = io.StringIO(), io.StringIO()
    other = logging.NullHandler()
    logging.getLogger("symbiosis").addHandler(other)
    setup(stream=first)
    setup(stream=second)
    get_logger("symbiosis_core.test").error(event("e"))
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
    assert other in logging.getLogger("symbiosis").handlers


def test_an_event_below_the_level_is_never_written_out() -> None:
    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError("written out")

    stream = io.StringIO()
    setup("info", stream)
    get_logger("symbiosis_core.test").debug(event("e", key=Untouchable()))
    assert stream.getvalue() == ""


def test_an_exception_keeps_its_traceback() -> None:
    stream = io.StringIO()
    setup(stream=stream)
    try:
        raise ValueError("broken")
    except ValueError as error:
        get_logger("symbiosis_core.test").error(event("service failed"), exc_info=error)
    assert "service failed\nTraceback" in stream.getvalue()
    assert "ValueError: broken" in stream.getvalue()
