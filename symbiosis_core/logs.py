"""Logging: one event, then `key=value` pairs, on one line.

    2026-03-01T12:00:00.123Z INFO symbiosis.core.kernel service started service=control

DEBUG is for developers, INFO and up for operators; nothing happens per activation above DEBUG; tokens,
activations and adapter values are never logged. Names and reasons come from clients, so a value cannot break out
of its place: whatever is not one plain printable word is quoted and escaped.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Final, TextIO

from symbiosis_core.errors import UsageError

__all__ = ["ENVIRONMENT", "LEVELS", "Event", "event", "get_logger", "setup"]

ENVIRONMENT: Final = "SYMBIOSIS_LOG"
"""The variable that sets the level where the program does not."""
LEVELS: Final = ("debug", "info", "warning", "error")

_ROOT: Final = "symbiosis"


class Event:
    """An event and its pairs. Written out only if a handler takes the record, so DEBUG events cost little."""

    __slots__ = ("name", "pairs")

    def __init__(self, name: str, pairs: dict[str, object]) -> None:
        self.name = name
        self.pairs = pairs

    def __str__(self) -> str:
        return " ".join((self.name, *(f"{key}={_quoted(str(value))}" for key, value in self.pairs.items())))


def event(name: str, /, **pairs: object) -> Event:
    """Returns a message for a logger: `log.info(event("client attached", client=3, lane="training"))`.

    `name` is a fixed text of the program; everything that varies is a pair.
    """
    return Event(name, pairs)


def get_logger(name: str) -> logging.Logger:
    """Returns the logger of a module, given its `__name__`.

    All packages of the house log below one logger, `symbiosis`: `symbiosis_core.kernel` becomes
    `symbiosis.core.kernel`. Other names are put below it as they are.
    """
    base = name.removeprefix(f"{_ROOT}_")
    return logging.getLogger(name if name == _ROOT or name.startswith(f"{_ROOT}.") else f"{_ROOT}.{base}")


def setup(level: str | None = None, stream: TextIO | None = None) -> None:
    """Sends the events of this process to `stream` (standard error), from `level` on. May be called again.

    Without `level` the variable SYMBIOSIS_LOG decides, and without that it is `info`. For programs that own
    their process; a library's user sets up `logging` as they like.

    Raises:
        UsageError: no such level.
    """
    wanted = level if level is not None else os.environ.get(ENVIRONMENT) or "info"
    if wanted.lower() not in LEVELS:
        source = "the log level" if level is not None else ENVIRONMENT
        raise UsageError(f"{source} is {wanted!r}; it may be {', '.join(LEVELS)}")
    root = logging.getLogger(_ROOT)
    for handler in list(root.handlers):
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
    handler = _Handler(stream)
    handler.setFormatter(_Formatter())
    root.addHandler(handler)
    root.setLevel(wanted.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """The handler that `setup` adds, so that a second call finds and replaces it."""


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime


def _quoted(text: str) -> str:
    if text and text.isprintable() and not any(character in text for character in ' "=\\'):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
