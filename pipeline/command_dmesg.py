"""``crashbeam dmesg``: the kernel's log out of a dump, as ``dmesg`` prints it. Beam is never imported on this way."""

import json

import click

from crashbeam.pipeline.command_show import say_failure
from crashbeam.pipeline.exit_codes import FAILURES, OK
from crashbeam.pipeline.inputs import list_one
from crashbeam.pipeline.interrupts import end_with_reader
from crashbeam.pipeline.options import config_option, debug_option, symbols_options
from crashbeam.pipeline.symbols import absolute_profiles, absolute_symbols
from crashbeam.vmcore.dmesg import LogReader, find_log
from crashbeam.vmcore.dmesg.text import SIDECAR, caller_name, format_line
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.stages import parse_headers, to_record


@click.command("dmesg")
@click.argument("dump", metavar="DUMP")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option("--caller", "with_caller", is_flag=True, help="Show who wrote each line: thread [ T81] or CPU [ C5].")
@symbols_options
@debug_option
@config_option
def dmesg_command(dump: str, as_json: bool, with_caller: bool, symbols: tuple[str, ...], profiles: str | None) -> int:
    """Prints the kernel's log that DUMP holds, or what vmcore-dmesg.txt beside it has of it."""
    end_with_reader()
    options = AnalysisOptions(absolute_symbols(symbols), absolute_profiles(profiles))
    dump_input = list_one(dump)
    try:
        failed = parse_headers(dump_input, options)
        if isinstance(failed, Failed):
            return say_failure(to_record(failed))
        log = _find_log(dump_input, options)
        lines = log.read()
    except VmcoreError as error:
        click.echo(f"crashbeam: the log cannot be read: {error.message} ({error.code}): {error.hint}", err=True)
        return FAILURES
    finally:
        close_last()
    text = _to_json(log, lines) if as_json else "\n".join(format_line(line, with_caller=with_caller) for line in lines)
    if text:
        click.echo(text)
    _warn(log)
    return OK


def _find_log(dump_input: DumpInput, options: AnalysisOptions) -> LogReader:
    dump = opened(dump_input, options)
    kernel = None if dump.kernel is None else dump.kernel.kernel
    return find_log(dump_input.paths[0], kernel, dump.memory, dump.vmcoreinfo)


def _to_json(log: LogReader, lines: list[LogLine]) -> str:
    """The log as one object on one line: what is known of it as a whole, and its lines."""
    return json.dumps(
        {
            "from": "dump" if log.sidecar_because is None else "sidecar",
            "problem": log.problem,
            "overwritten_records": log.overwritten_records,
            "lines": [
                {
                    "sequence": line.sequence,
                    "time_ns": line.time_ns,
                    "caller": None if line.caller is None else caller_name(line.caller),
                    "level": line.level,
                    "text": line.text,
                }
                for line in lines
            ],
        }
    )


def _warn(log: LogReader) -> None:
    """Says on standard error in what the log is not the whole log of the dump."""
    said = []
    if log.sidecar_because is not None:
        said.append(f"the log is that of {SIDECAR} beside the dump: {log.sidecar_because}")
    if log.problem is not None:
        said.append(log.problem)
    if log.overwritten_records:
        said.append(f"the log is truncated: records overwritten at its beginning: {log.overwritten_records}")
    for sentence in said:
        click.echo(f"crashbeam: warning: {sentence}", err=True)
