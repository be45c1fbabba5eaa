"""The command ``crashbeam``: finds the command's own file when it is asked for, and turns exceptions into exit codes.

Nothing heavy is imported here: ``show`` must answer at once, and never imports Beam.
"""

from importlib import import_module

import click

from crashbeam.pipeline.exit_codes import DEFECT, OK, PROMISE_BROKEN, WRONG_USE, PromiseBrokenError, WrongUseError

COMMANDS = {
    "run": "Analyse dumps: one record each, in a run folder.",
    "show": "Show one dump as text, or as its report.",
    "dmesg": "Print the kernel's log that a dump holds.",
    "trim": "Write a small dump that gives the same report.",
    "load": "Load a finished run into a store.",
    "signature": "Tell what a stored report is filed under, and why: explain.",
    "regroup": "Sign stored reports by other rules: which buckets merge and split.",
    "symbols": "Look after the cache of kernel profiles: add, list, verify, gc.",
    "schema": "Print the JSON Schema of a record.",
}


class _CommandsByFile(click.Group):
    """Commands that are imported when they are used: ``NAME`` lives in ``command_NAME.py``."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"crashbeam.pipeline.command_{cmd_name}"), f"{cmd_name}_command")
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from crashbeam.pipeline.version import find_version

        click.echo(f"crashbeam {find_version()}")
        context.exit()


@click.group(cls=_CommandsByFile, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def crashbeam() -> None:
    """Reads PowerPC Linux kernel crash dumps and says, for every CPU, what it was doing."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; the exit code."""
    try:
        result = crashbeam.main(arguments, prog_name="crashbeam", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return WRONG_USE
    except click.ClickException as error:
        return _say(error.format_message(), WRONG_USE)
    except WrongUseError as error:
        return _say(str(error), WRONG_USE)
    except PromiseBrokenError as error:
        return _say(str(error), PROMISE_BROKEN)
    except Exception as error:
        import logging

        logging.getLogger(__name__).debug("defect", exc_info=True)
        return _say(f"a defect of crashbeam: {type(error).__name__}: {error} (--debug shows where)", DEFECT)
    return result if isinstance(result, int) else OK


def _say(message: str, code: int) -> int:
    click.echo(f"crashbeam: {' '.join(message.split())}", err=True)
    return code
