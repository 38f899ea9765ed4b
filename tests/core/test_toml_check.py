"""TOML is read into Structs of any shape, and every mistake is named with its place."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from symbiosis_core import toml_check
from symbiosis_core.errors import ConfigError, Problem


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    factor: Annotated[int, Meta(multiple_of=64)] = 64
    named: int = msgspec.field(name="other-name", default=3)


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    needed: Annotated[int, Meta(ge=1)]
    inner: Inner = Inner()
    many: dict[str, Inner] = {}
    deep: dict[str, dict[str, Inner]] = {}
    plain: dict[str, int] = {}
    few: Annotated[dict[str, int], Meta(max_length=1)] = {}
    numbers: list[int] = []
    word: Annotated[str, Meta(max_length=3)] = "x"
    maybe: int | None = None
    colour: Colour = Colour.RED
    mode: Literal["a", "b"] = "a"


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        toml_check.check("f.toml", text, Outer)
    assert caught.value.source == "f.toml"
    return list(caught.value.problems)


def test_what_is_right_is_read_as_msgspec_reads_it() -> None:
    text = """
        needed = 1
        numbers = [1, 2]
        colour = "blue"
        maybe = 7
        inner = {share = 1, other-name = 4}
        plain = {a = 1}
        [many.x]
        share = 0.25
        [deep.a.b]
        factor = 128
    """
    found = toml_check.check("f.toml", text, Outer)
    assert found == msgspec.toml.decode(text, type=Outer)
    assert found.deep["a"]["b"].factor == 128
    assert found.inner == Inner(share=1.0, named=4)


@pytest.mark.parametrize(
    ("line", "key", "value", "allowed"),
    [
        ("needed = 0", "needed", 0, "must be an integer, at least 1"),
        ("needed = true", "needed", True, "must be an integer, at least 1"),
        ("needed = 1.0", "needed", 1.0, "must be an integer, at least 1"),
        ("inner.share = 1.5", "inner.share", 1.5, "must be a number, 0 to 1"),
        ("inner.share = 'x'", "inner.share", "x", "must be a number, 0 to 1"),
        ("inner.factor = 65", "inner.factor", 65, "Expected `int` that's a multiple of 64"),
        ("inner.named = 1", "inner.named", 1, "unknown key; allowed: factor, other-name, share"),
        ("inner = 3", "inner", 3, "must be a table with the keys factor, other-name, share"),
        ("many = 3", "many", 3, "must be a table"),
        ("many.x = 3", "many.x", 3, "must be a table with the keys factor, other-name, share"),
        ("deep.a.b.share = 2", "deep.a.b.share", 2, "must be a number, 0 to 1"),
        ("plain.a = 'x'", "plain.a", "x", "must be an integer"),
        ("few = {a = 1, b = 2}", "few", {"a": 1, "b": 2}, "must be a table, at most 1 entries"),
        ("numbers = [1, 'x']", "numbers[1]", [1, "x"], "Expected `int`, got `str`"),
        ("word = 'long'", "word", "long", "must be text, at most 3 characters"),
        ("colour = 'green'", "colour", "green", "Invalid enum value 'green'"),
        ("mode = 'c'", "mode", "c", "must be one of 'a', 'b'"),
        ("maybe = 'x'", "maybe", "x", "Expected `int | null`, got `str`"),
        ("neded = 1", "neded", 1, None),
    ],
)
def test_a_mistake_is_told_with_its_key_its_value_and_what_is_allowed(
    line: str, key: str, value: object, allowed: str | None
) -> None:
    text = line if line.startswith("needed") else f"needed = 1\n{line}"
    [problem] = problems(text)
    assert (problem.key, problem.value) == (key, value)
    assert type(problem.value) is type(value)
    if allowed is None:
        assert problem.allowed.startswith("unknown key; did you mean `needed`? allowed: colour, ")
    else:
        assert problem.allowed == allowed


def test_all_mistakes_are_told_at_once() -> None:
    found = problems("word = 1\nxyz = 2\ninner.share = 3\nmany.a.factor = 'x'\nmany.b.qqqq = 4")
    assert {problem.key for problem in found} == {
        "needed", "word", "xyz", "inner.share", "many.a.factor", "many.b.qqqq",
    }  # fmt: skip


def test_a_missing_key_is_told_with_what_it_takes() -> None:
    assert problems("") == [Problem("needed", None, "missing; must be an integer, at least 1")]


def test_a_key_that_is_no_bare_word_is_quoted_in_its_path() -> None:
    [problem] = problems('needed = 1\nmany."a.b \\"c\\"".share = 9')
    assert problem.key == r'many."a.b \"c\"".share'


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("a = 1\nb = = 2", "line 2, column 5", "Invalid value"),
        ("a = 1\r\nb = = 2", "line 2, column 5", "Invalid value"),
        ("a = [\n\n", "line 3, column 1", "Invalid value"),
        ("a = 1\na = 2\n", "line 2, column 6", "a key or a table may stand only once"),
        ("a = 1\na = 2", "line 2, column 6", "a key or a table may stand only once"),
        ("[a]\n[a]\n", "line 2, column 3", "a key or a table may stand only once"),
        ("a.b = 1\na = 2\n", "line 2, column 6", "a key or a table may stand only once"),
        ("a = " + "9" * 5000, "", "to increase the limit"),
        ("a = " + "[" * 100_000, "", "nested too deeply"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(text: str, key: str, allowed: str) -> None:
    [problem] = problems(text)
    assert problem.key == key
    assert problem.allowed.endswith(allowed)


@settings(max_examples=200, deadline=None)
@given(st.text("abx.=[]{}\"'\n 01-#\\\u00e9\x00", max_size=40) | st.sampled_from(["needed=1"]))
def test_any_text_is_read_or_is_a_config_error(text: str) -> None:
    try:
        found = toml_check.check("f.toml", text, Outer)
    except ConfigError as error:
        assert error.problems
    else:
        assert found.needed >= 1


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory; check the path") as caught:
        toml_check.read(tmp_path / "none.toml")
    assert caught.value.source == str(tmp_path / "none.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        toml_check.read(tmp_path)


def test_a_byte_that_is_not_utf8_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("a = 1\nb = 'é".encode() + b"\xe9'")
    with pytest.raises(ConfigError) as caught:
        toml_check.read(path)
    assert caught.value.problems == (
        Problem("line 2, column 7", None, "the byte 0xe9 is not UTF-8; save the file as UTF-8"),
    )


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbfneeded = 1\r\n")
    assert toml_check.check("f.toml", toml_check.read(path), Outer).needed == 1
