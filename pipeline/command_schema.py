"""``crashbeam schema``: the JSON Schema of a record."""

from importlib import resources

import click

from crashbeam.pipeline.exit_codes import OK, WrongUseError
from crashbeam.pipeline.interrupts import end_with_reader

_FOLDER = resources.files("crashbeam.schemas") / "json"


@click.command("schema")
@click.argument("name", metavar="NAME")
def schema_command(name: str) -> int:
    """Prints the JSON Schema of the record NAME: crash_report or failure."""
    end_with_reader()
    names = sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name.endswith(".json"))
    if name not in names:
        raise WrongUseError(f"there is no record {name}; there are {', '.join(names)}")
    click.echo((_FOLDER / f"{name}.json").read_text(encoding="utf-8"), nl=False)
    return OK
