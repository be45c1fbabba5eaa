"""The options of the commands: each is read from its flag, from ``CRASHBEAM_<OPTION>`` or from a TOML file.

The first of the three wins. A TOML file holds options by their long names without the dashes (``workers = 4``).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from crashbeam.pipeline.exit_codes import WrongUseError

ENVIRONMENT_PREFIX = "CRASHBEAM_"
MAX_DMESG_LINES = 100_000
Command = TypeVar("Command", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that the environment can set too."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = ENVIRONMENT_PREFIX + long_name.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


def symbols_options(command: Command) -> Command:
    """``--symbols`` and ``--profiles``: where the kernels' names and layouts come from."""
    command = option(
        "--profiles",
        metavar="DIR",
        help="Folder of compiled kernel profiles; without --symbols it alone is searched. [default: the user's cache]",
    )(command)
    return option(
        "--symbols",
        metavar="PATH",
        type=click.Path(),
        multiple=True,
        help="A vmlinux, a System.map, a compiled profile, or a folder of them: names and layouts of the kernels.",
    )(command)


def report_options(command: Command) -> Command:
    """``--dmesg`` and ``--rules``: what a report holds of the log, and by which lists it is signed."""
    command = option(
        "--rules",
        metavar="DIR",
        type=click.Path(),
        help="A folder of lists that are added to crashbeam's own for classes and signatures.",
    )(command)
    return option(
        "--dmesg",
        "dmesg_lines",
        metavar="N",
        type=click.IntRange(0, MAX_DMESG_LINES),
        default=0,
        help="Put the last N lines of the kernel's log into the report: they may hold private data.",
    )(command)


def debug_option(command: Command) -> Command:
    """``--debug``: log what goes on, with tracebacks."""
    return option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_configure_logging,
        help="Log what goes on, with tracebacks.",
    )(command)


def config_option(command: Command) -> Command:
    """``--config``: a TOML file of options."""
    return click.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        envvar=ENVIRONMENT_PREFIX + "CONFIG",
        help="A TOML file with options by their long names: flags and environment go before it.",
    )(command)


def _configure_logging(_context: click.Context, _parameter: click.Parameter, debug: bool) -> None:
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG)


def _read_config(context: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    import tomllib

    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise WrongUseError(f"--config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUseError(f"--config {path} is no TOML: {error}") from error
    names = _names_in_config(context.command)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise WrongUseError(f"--config {path}: unknown option {unknown[0]}; known are {', '.join(sorted(names))}")
    context.default_map = {names[name]: value for name, value in given.items()}


def _names_in_config(command: click.Command) -> dict[str, str]:
    """Parameter names by the option's long name, with dashes and with underscores."""
    names = {}
    for parameter in command.params:
        for name in parameter.opts:
            if (
                isinstance(parameter, click.Option)
                and name.startswith("--")
                and parameter.expose_value
                and parameter.name
            ):
                long_name = name.removeprefix("--")
                names[long_name] = parameter.name
                names[long_name.replace("-", "_")] = parameter.name
    return names
