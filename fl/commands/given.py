"""Options from four places, in this order: command line, environment variable, settings file, default."""

import copy
import difflib
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer import Option

from fl.commands.options import LIMITS, PRIVACY
from fl.config.config_file import read_config_file
from fl.config.run_config import SETTINGS
from fl.config.setting import Setting
from fl.errors import ConfigError

# An empty variable counts as not given. For these options, that would let excluded clients in.
_NOT_EMPTY = ("EXCLUDE", "CRL")
_PROBLEM = "secagg.problem"
# The sections of settings that no run has, by their help panels.
_SECTIONS = {LIMITS: "limits", PRIVACY: "privacy"}
# Options of a single start, which make no sense in a file.
_NOT_IN_FILES = {"config", "resume", "skip", "as_json"}


def configurable(app: typer.Typer, *options: Iterable[inspect.Parameter]) -> Callable[[Callable[..., None]], None]:
    """Register a function as a command with ``options``, an environment variable for each, and ``--config``.

    The function must take the options as keyword arguments, and call `given` first.
    """

    def register(function: Callable[..., None]) -> None:
        prefix = f"SECAGG_{function.__name__.upper()}"
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        text = f"TOML file with these settings; the command line and {prefix}_... variables override it."
        settings: dict[str, Setting] = {}
        variables: set[str] = set()

        def load(context: typer.Context, path: Path | None) -> Path | None:
            try:
                _check_environment(prefix, variables)
                if path is not None:
                    context.default_map = read_config_file(path, settings)
            except ConfigError as error:
                # Raised later, by `given`: with --json, the error is part of the JSON object.
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
            # Commands share some options, so that a copy is changed here.
            info = copy.copy(info)
            info.envvar, info.show_envvar = f"{prefix}_{name.upper()}", False
            variables.add(info.envvar)
            if parameter.name not in _NOT_IN_FILES:
                section = _SECTIONS.get(info.rich_help_panel, "")
                setting = Setting(section, name, kind, parameter.default)
                settings[parameter.name] = SETTINGS.get(parameter.name, setting)
            annotation = Annotated[kind, info]  # type: ignore[valid-type]
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(
            epilog=f"Each option can also be set by an environment variable, such as {prefix}_SEED for --seed."
        )(function)

    return register


def given(context: typer.Context) -> set[str]:
    """Return the names of the options that the command line gives.

    Raises:
        ConfigError: the settings file or an environment variable is not valid.
    """
    if (problem := context.meta.get(_PROBLEM)) is not None:
        raise problem
    return {name for name in context.params if _source(context, name) == "COMMANDLINE"}


def is_set(context: typer.Context, name: str) -> bool:
    """Return whether an option was given: on the command line, by the environment or in the file."""
    return _source(context, name) != "DEFAULT"


def refuse_with_resume(on_command_line: set[str], resumable: Iterable[str]) -> None:
    """Raise ConfigError for options that were fixed when the run started.

    Options from the environment and a settings file are ignored, so that the same file can start and resume a run.
    """
    if refused := sorted(on_command_line - set(resumable)):
        options = ", ".join("--" + name.replace("_", "-") for name in refused)
        raise ConfigError(f"--resume continues the run with the settings that it started with; leave out {options}")


def _source(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else source.name


def _public_name(name: str, info: Any) -> str:
    """Return the name of an option as the user writes it, with ``_`` for ``-``."""
    # In Annotated, typer keeps the first name as a default until it makes the command.
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
                f"unknown environment variable {name}: {f'did you mean {near[0]}?' if near else 'unset it'}"
            )
