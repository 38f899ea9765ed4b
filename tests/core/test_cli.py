"""The command line finds its commands by entry points, loads them late, and tells errors apart.

The packages that bring commands are real ones: folders with modules and metadata, put on the path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import symbiosis_core
from symbiosis_core.cli import app
from symbiosis_core.errors import ServiceFailedError

ROOT = Path(symbiosis_core.__file__).parents[1]

COMMANDS = '''
"""Commands of another package."""
import typer
from symbiosis_core.errors import *

def greet(name: str, times: int = 1) -> None:
    """Greet somebody [politely]. More about it here."""
    typer.echo(f"hello {name} " * times)

tool = typer.Typer()

@tool.command()
def first() -> None:
    """Do the first thing."""
    typer.echo("did the first")

@tool.command()
def second() -> None:
    """Do the second thing."""

single = typer.Typer()

@single.command()
def alone(number: int) -> None:
    """Do the only thing."""
    typer.echo(number + 1)

def refused() -> None:
    raise RefusedError(RefusalCode.QUOTA, "64 clients are connected", "wait")

def misused() -> None:
    raise UsageError("do it otherwise")

def misconfigured() -> None:
    raise ConfigError("a.toml", [Problem("x", 1, "must be text"), Problem("y", 2, "must be text")])

def interrupted() -> None:
    raise KeyboardInterrupt

def bug() -> None:
    1 / 0

def bug_in_a_service() -> None:
    raise ServiceFailedError("data", "failed: ZeroDivisionError") from ZeroDivisionError("division by zero")

def no_port() -> None:
    failure = ServiceFailedError("control", "failed to start: the address is in use")
    failure.add_note("then service data failed to stop")
    raise failure from UsageError("the address is in use")

def hung() -> None:
    raise ServiceFailedError("data", "did not stop within 10 s and was abandoned")

def leaves() -> None:
    raise typer.Exit(7)

nothing = 3
'''


class Shown(NamedTuple):
    """What a call of the command line left."""

    status: object
    out: str
    err: str


Run = Callable[..., Shown]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `symbiosis` in this process, with the packages in `tmp_path` on its path."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own

    def symbiosis(*arguments: str) -> Shown:
        with pytest.raises(SystemExit) as left:
            app(arguments, prog_name="symbiosis")
        return Shown(left.value.code, *capsys.readouterr())

    yield symbiosis
    for package in ("others", "broken", "rival"):
        sys.modules.pop(package, None)


def run_process(folder: Path, *arguments: str) -> Shown:
    """Runs `symbiosis` in a process of its own, with the packages in `folder` on its path."""
    done = subprocess.run(
        [sys.executable, "-m", "symbiosis_core", *arguments],
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return Shown(done.returncode, done.stdout, done.stderr)


def install(folder: Path, package: str, source: str, commands: dict[str, str]) -> None:
    """Lays a package with one module and its entry points into `folder`."""
    (folder / f"{package}.py").write_text(source)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {package}:{attribute}" for name, attribute in commands.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[symbiosis.commands]", *lines]))


@pytest.fixture
def others(tmp_path: Path) -> None:
    """A package with one command of each kind, and a broken one beside it."""
    names = "greet tool single refused misused misconfigured interrupted bug bug_in_a_service no_port hung leaves"
    install(tmp_path, "others", COMMANDS, {name.replace("_", "-"): name for name in [*names.split(), "nothing"]})
    install(tmp_path, "broken", "raise RuntimeError('no such [/device]')", {"broken": "run"})


def test_the_version_is_shown(tmp_path: Path) -> None:
    shown = run_process(tmp_path, "--version")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == f"symbiosis {symbiosis_core.__version__}\n"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_looking_at_the_command_line_loads_neither_torch_nor_zmq(option: str) -> None:
    code = f"""
import sys
from symbiosis_core.cli import app
from symbiosis_core.errors import ServiceFailedError
try:
    app([{option!r}])
except SystemExit as left:
    assert left.code == 0, left.code
print("loaded:", sorted({{"torch", "zmq", "uvloop", "transformers", "peft"}} & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.usefixtures("others")
def test_the_version_imports_no_module_of_a_command(run: Run) -> None:
    run("--version")
    assert "others" not in sys.modules
    run("--help")
    assert "others" in sys.modules


@pytest.mark.usefixtures("others")
def test_help_lists_the_commands_and_says_of_a_broken_one_what_it_lacks(run: Run) -> None:
    shown = run("--help")
    assert shown.status == 0
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert "greet Greet somebody [politely]." in lines
    assert "single Do the only thing." in lines
    assert "broken Cannot be loaded: RuntimeError: no such [/device]" in lines
    assert "bug" in lines
    assert any(line.startswith("nothing Cannot be loaded: the command `nothing` is of") for line in lines)


def test_without_arguments_the_help_is_shown(run: Run) -> None:
    shown = run()
    assert shown.status == 2
    assert "Usage: symbiosis [OPTIONS] COMMAND" in shown.out + shown.err


@pytest.mark.usefixtures("others")
def test_a_typed_function_is_a_command(run: Run) -> None:
    assert run("greet", "you", "--times", "2").out == "hello you hello you \n"
    refused = run("greet", "you", "--times", "x")
    assert refused.status == 2
    assert "'--times'" in refused.err
    assert "More about it here." in run("greet", "--help").out


@pytest.mark.usefixtures("others")
def test_a_typer_is_a_command_as_it_would_be_alone(run: Run) -> None:
    assert run("tool", "first").out == "did the first\n"
    assert run("single", "4").out == "5\n"
    assert "completion" not in run("tool", "--help").out


@pytest.mark.usefixtures("others")
def test_a_broken_command_shows_its_traceback_when_it_is_run(tmp_path: Path) -> None:
    shown = run_process(tmp_path, "broken", "--with", "options")
    assert shown.status == 1
    assert "Traceback" in shown.err
    assert shown.err.rstrip().endswith("RuntimeError: no such [/device]")


@pytest.mark.usefixtures("others")
def test_an_entry_point_that_names_no_command_is_an_error_of_its_own(run: Run) -> None:
    shown = run("nothing")
    assert shown.status == 2
    assert shown.err == "error: the command `nothing` is of type int; give a function or a typer.Typer\n"


@pytest.mark.usefixtures("others")
def test_two_packages_cannot_bring_one_command(run: Run, tmp_path: Path) -> None:
    install(tmp_path, "rival", "def greet() -> None: ...", {"greet": "greet"})
    shown = run("greet", "you")
    assert shown.status == 2
    assert "others:greet (others), rival:greet (rival); uninstall all but one" in shown.err
    assert run("single", "4").status == 0


@pytest.mark.usefixtures("others")
def test_a_misspelt_command_is_told_with_the_right_one(run: Run) -> None:
    shown = run("gret")
    assert shown.status == 2
    assert "No such command 'gret'. Did you mean 'greet'?" in shown.err


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("refused", 1, "error: 64 clients are connected (quota). wait\n"),
        ("misused", 2, "error: do it otherwise\n"),
        ("misconfigured", 2, "error: a.toml: x = 1: must be text\nerror: a.toml: y = 2: must be text\n"),
        (
            "no-port",
            2,
            "error: service control failed to start: the address is in use\n"
            "error: then service data failed to stop\n",
        ),
        ("hung", 1, "error: service data did not stop within 10 s and was abandoned\n"),
        ("interrupted", 130, ""),
        ("leaves", 7, ""),
    ],
)
def test_an_error_on_purpose_is_told_without_traceback(run: Run, command: str, status: int, told: str) -> None:
    shown = run(command)
    assert (shown.status, shown.out, shown.err) == (status, "", told)


@pytest.mark.usefixtures("others")
def test_any_other_error_keeps_its_traceback(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run("bug")
    with pytest.raises(ServiceFailedError) as caught:
        run("bug-in-a-service")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    shown = run_process(tmp_path, "bug-in-a-service")
    assert shown.status == 1
    assert "Traceback" in shown.err
    assert "ZeroDivisionError: division by zero" in shown.err
