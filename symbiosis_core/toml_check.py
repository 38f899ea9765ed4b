"""TOML into frozen Structs, with every mistake named: where it stands, what stands there, what may stand there.

msgspec stops at the first mistake and hides the keys of a dict in its path (0.22), so the Structs are walked
here and only the leaves are left to it. Nothing here knows which Structs they are.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect

from symbiosis_core.errors import ConfigError, Problem

__all__ = ["check", "read"]

S = TypeVar("S", bound=msgspec.Struct)

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LEAF_PATH = re.compile(r" - at `\$(.*)`$")


def read(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}; check the path and its permissions"
        raise ConfigError(str(path), [Problem("", None, reason)]) from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig")
        reason = f"the byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(str(path), [Problem(_place(before), None, reason)]) from error


def check(source: str, text: str, kind: type[S]) -> S:
    """Returns `text` as a `kind`. `source` names it in errors.

    Raises:
        ConfigError: carries every problem; one alone where the text is no TOML, since reading ends there.
    """
    problems: list[Problem] = []
    found: S = _struct(kind, _parsed(source, text), "", problems)
    if problems:
        raise ConfigError(source, problems)
    return found


def _parsed(source: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(source, [Problem("", None, "the values are nested too deeply")]) from error
    except ValueError as error:  # TOMLDecodeError, and Python's own for integers of thousands of digits
        raise ConfigError(source, [_syntax_problem(text, str(error))]) from error


def _syntax_problem(text: str, message: str) -> Problem:
    position = _POSITION.search(message)
    if position is None:
        return Problem("", None, message)
    what = message[: position.start()]
    if what == "Cannot overwrite a value" or what.endswith(" twice"):
        what = f"{what}; a key or a table may stand only once"
    place = f"line {position[1]}, column {position[2]}" if position[1] else _place(text)
    return Problem(place, None, what)


def _place(before: str) -> str:
    """Returns the place that follows the text `before`, counted as tomllib does."""
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f"line {line}, column {column}"


def _struct(kind: type[S], data: object, path: str, problems: list[Problem]) -> Any:
    """Returns `data` as a `kind`. What is returned after a problem was added is worth nothing."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if not isinstance(data, dict):
        problems.append(Problem(path, data, f"must be a table with the keys {', '.join(sorted(fields))}"))
        return None
    known = len(problems)
    problems += [Problem(_join(path, key), data[key], _unknown(key, fields)) for key in data if key not in fields]
    values = {}
    for name, field in fields.items():
        if name in data:
            values[field.name] = _value(field.type, data[name], _join(path, name), problems)
        elif field.required:
            problems.append(Problem(_join(path, name), None, f"missing; {_allowed(field.type) or 'required'}"))
    return kind(**values) if len(problems) == known else None


def _value(annotation: Any, data: object, path: str, problems: list[Problem]) -> Any:
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return _struct(plain, data, path, problems)
    if get_origin(plain) is dict and isinstance(data, dict):
        return _table(annotation, get_args(plain), data, path, problems)
    item = get_args(plain)[0] if get_origin(plain) is tuple else None
    if isinstance(item, type) and issubclass(item, msgspec.Struct) and isinstance(data, list):
        return tuple([_struct(item, each, f"{path}[{position}]", problems) for position, each in enumerate(data)])
    return _leaf(annotation, data, path, problems)


def _table(
    annotation: Any, types: tuple[Any, ...], data: dict[str, Any], path: str, problems: list[Problem]
) -> dict[str, Any]:
    key_type, value_type = types
    info = inspect.type_info(annotation)
    assert isinstance(info, inspect.DictType)  # the caller saw a dict
    if len(data) < (info.min_length or 0) or (info.max_length is not None and len(data) > info.max_length):
        problems.append(Problem(path, data, _allowed(annotation)))
    for key in data:
        _leaf(key_type, key, _join(path, key), problems)
    return {key: _value(value_type, value, _join(path, key), problems) for key, value in data.items()}


def _leaf(annotation: Any, data: object, path: str, problems: list[Problem]) -> Any:
    try:
        return msgspec.convert(data, annotation, strict=True)
    except msgspec.ValidationError as error:
        message = str(error)
        inner = _LEAF_PATH.search(message)
        place, message = (path + inner[1], message[: inner.start()]) if inner else (path, message)
        problems.append(Problem(place, data, _allowed(annotation) or message))
        return None


def _join(path: str, key: str) -> str:
    written = key if _BARE_KEY.fullmatch(key) else '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{path}.{written}" if path else written


def _unknown(key: str, fields: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, fields, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return f"unknown key; {hint}allowed: {', '.join(sorted(fields))}"


def _allowed(annotation: Any) -> str:
    """Returns in words what `annotation` takes, or nothing where msgspec's own words must do."""
    match inspect.type_info(annotation):
        case inspect.BoolType():
            return "must be true or false"
        case inspect.IntType(gt=None, lt=None, multiple_of=None, ge=low, le=high):
            return _within("must be an integer", low, high)
        case inspect.FloatType(gt=None, lt=None, multiple_of=None, ge=low, le=high):
            return _within("must be a number", low, high)
        case inspect.StrType(pattern=None, min_length=low, max_length=high):
            return _within("must be text", low, high, " characters")
        case inspect.LiteralType(values=values):
            return f"must be one of {', '.join(map(repr, values))}"
        case inspect.DictType(min_length=low, max_length=high):
            return _within("must be a table", low, high, " entries")
    return ""


def _within(what: str, low: float | None, high: float | None, unit: str = "") -> str:
    if low is None and high is None:
        return what
    if low is not None and high is not None:
        return f"{what}, {low} to {high}{unit}"
    return f"{what}, at least {low}{unit}" if high is None else f"{what}, at most {high}{unit}"
