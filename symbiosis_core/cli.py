"""The command line: `symbiosis COMMAND ...`. It knows no command; packages bring them by entry points.

An entry point in the group `symbiosis.commands` names a typed function, whose first docstring sentence becomes
the line in `--help`, or a `typer.Typer`, which behaves as it would alone. Its module is imported when the
command is run or listed, never for `--version`; so it imports heavy libraries inside the command.

Exit status: 0 done; 1 a `SymbiosisError`; 2 what the user gave is wrong; 130 interrupted. An exception that
nobody raised on purpose keeps its traceback.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from symbiosis_core import __version__
from symbiosis_core.errors import ConfigError, ServiceFailedError, SymbiosisError, UsageError

__all__ = ["GROUP", "app", "main"]

GROUP: Final = "symbiosis.commands"
"""The entry point group of the commands."""
_COMPLETION: Final = {"install_completion", "show_completion"}


class _Commands(TyperGroup):
    """The group whose commands are the entry points. Holds a stub of each until its name is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._unloaded: dict[str, list[EntryPoint]] = {}
        for point in sorted(set(entry_points(group=GROUP)), key=lambda point: (point.name, point.value)):
            self._unloaded.setdefault(point.name, []).append(point)
            self.add_command(TyperCommand(point.name))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self._unloaded:
            self.commands[cmd_name] = _loaded(cmd_name, self._unloaded.pop(cmd_name))
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except SymbiosisError as error:
            root = error.__cause__ if isinstance(error, ServiceFailedError) and error.__cause__ else error
            if not isinstance(root, SymbiosisError):
                raise  # a bug in a service: its traceback is what helps
            for line in (*str(error).splitlines(), *getattr(error, "__notes__", ())):
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(2 if isinstance(root, ConfigError | UsageError) else 1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help and errors quote foreign text, whose brackets are no markup
    pretty_exceptions_enable=False,  # they print local variables, and those are other people's data
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"symbiosis {__version__}")
        raise typer.Exit


@app.callback()
def _symbiosis(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """One frozen LLM, loaded once and lent to many processes that train and serve their own adapters on it."""


def main() -> None:
    """Runs the command line of this process, and exits."""
    app(prog_name="symbiosis")


def _loaded(name: str, points: list[EntryPoint]) -> TyperCommand | TyperGroup:
    """Returns the command, or one in its place that tells why there is none: others must stay usable."""
    try:
        if len(points) > 1:
            packages = ", ".join(f"{point.value} ({point.dist and point.dist.name})" for point in points)
            raise UsageError(f"several packages bring a command `{name}`: {packages}; uninstall all but one")
        return _command(name, points[0].load())
    except Exception as error:  # noqa: BLE001  # importing a foreign module can raise anything
        return _broken(name, error)


def _command(name: str, found: object) -> TyperCommand | TyperGroup:
    if isinstance(found, typer.Typer):
        own = found
    elif callable(found):
        own = typer.Typer(add_completion=False, rich_markup_mode=None)
        own.command(name)(found)
    else:
        raise UsageError(
            f"the command `{name}` is of type {type(found).__name__}; give a function or a typer.Typer"
        )
    command = typer.main.get_command(own)
    assert isinstance(command, TyperCommand | TyperGroup)  # the two that typer makes
    command.params = [parameter for parameter in command.params if parameter.name not in _COMPLETION]
    return command


def _broken(name: str, error: Exception) -> TyperCommand:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    told = str(error) if isinstance(error, SymbiosisError) else f"{type(error).__name__}: {error}"
    return TyperCommand(
        name,
        callback=fail,
        help=f"Cannot be loaded: {told}",
        rich_markup_mode=None,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
