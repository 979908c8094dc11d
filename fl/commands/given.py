"""Options from three places: the command line, before the environment, before a settings file, before the default."""

import copy
import difflib
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer import Option

from fl.commands.options import LIMITS
from fl.config.config_file import read_config_file
from fl.config.run_config import SETTINGS, Setting
from fl.errors import ConfigError

# An empty variable counts as none. Of these, that would let in whoever is to be shut out.
_NOT_EMPTY = ("EXCLUDE", "CRL")
_PROBLEM = "secagg.problem"
# What one start is told, and no file could know.
_NOT_IN_FILES = {"config", "resume", "skip", "as_json"}


def configurable(app: typer.Typer, *options: Iterable[inspect.Parameter]) -> Callable[[Callable[..., None]], None]:
    """Register a function as a command that has ``options`` too, an environment variable for each, and ``--config``.

    The function has to take the options as keyword arguments, and to call `given` first.
    """

    def register(function: Callable[..., None]) -> None:
        prefix = f"SECAGG_{function.__name__.upper()}"
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        text = f"TOML file with these settings; the command line comes first, then {prefix}_... variables."
        settings: dict[str, Setting] = {}
        variables: set[str] = set()

        def load(context: typer.Context, path: Path | None) -> Path | None:
            try:
                _check_environment(prefix, variables)
                if path is not None:
                    context.default_map = read_config_file(path, settings)
            except ConfigError as error:
                # Not here: where --json is given, its object says it.
                context.meta[_PROBLEM] = error
            return path

        config = inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, Option("--config", help=text, is_eager=True, callback=load)],
        )
        context, *others = own
        parameters = [context]
        for parameter in (config, *others, *(parameter for group in options for parameter in group)):
            kind, info = get_args(parameter.annotation)[:2]
            name = _public_name(parameter.name, info)
            # A copy, since commands share some options' texts.
            info = copy.copy(info)
            info.envvar, info.show_envvar = f"{prefix}_{name.upper()}", False
            variables.add(info.envvar)
            if parameter.name not in _NOT_IN_FILES:
                section = LIMITS.lower() if info.rich_help_panel == LIMITS else ""
                setting = Setting(section, name, kind, parameter.default)
                settings[parameter.name] = SETTINGS.get(parameter.name, setting)
            annotation = Annotated[kind, info]  # type: ignore[valid-type]
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(epilog=f"Each option is also read from the environment: {prefix}_SEED for --seed.")(function)

    return register


def given(context: typer.Context) -> set[str]:
    """Return the names of the options that the command line has.

    Raises:
        ConfigError: the settings file or the environment is at fault.
    """
    if (problem := context.meta.get(_PROBLEM)) is not None:
        raise problem
    return {name for name in context.params if _source(context, name) == "COMMANDLINE"}


def is_set(context: typer.Context, name: str) -> bool:
    """Whether an option was given anywhere."""
    return _source(context, name) != "DEFAULT"


def refuse_with_resume(on_command_line: set[str], resumable: Iterable[str]) -> None:
    """Refuse options that were settled when the run started.

    Those of the environment and of a settings file are left aside, so that one file starts a run and resumes it.
    """
    if refused := sorted(on_command_line - set(resumable)):
        options = ", ".join("--" + name.replace("_", "-") for name in refused)
        raise ConfigError(f"--resume goes on with the run as it was started; leave out {options}")


def _source(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else source.name


def _public_name(name: str, info: Any) -> str:
    """Return the name that an option has for its user, with ``_`` for ``-``."""
    # In Annotated, typer takes the first name for a default until it makes the command.
    named = next((decl for decl in (info.default, *(info.param_decls or ())) if isinstance(decl, str)), name)
    return named.partition("/")[0].lstrip("-").replace("-", "_")


def _check_environment(prefix: str, variables: set[str]) -> None:
    for name in (f"{prefix}_{option}" for option in _NOT_EMPTY):
        if name in variables and os.environ.get(name) == "":
            raise ConfigError(f"the environment variable {name} is empty: give it a file, or take it away")
    for name in sorted(os.environ):
        if name.startswith(f"{prefix}_") and name not in variables:
            near = difflib.get_close_matches(name, variables, 1)
            raise ConfigError(
                f"unknown environment variable {name}: {f'did you mean {near[0]}?' if near else 'take it away'}"
            )
