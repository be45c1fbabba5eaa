"""The lists that ``--rules`` names, checked before the first dump is read."""

import os

from crashbeam.pipeline.exit_codes import WrongUseError
from crashbeam.vmcore.crash_log import rules_of
from crashbeam.vmcore.errors import FormatError
from crashbeam.vmcore.signature.overrides import RulesError
from crashbeam.vmcore.signature.rules import Rules


def absolute_rules(folder: str | None) -> str | None:
    """The absolute path of what ``--rules`` names; ``None`` are crashbeam's own lists alone."""
    return None if folder is None else os.path.abspath(folder)


def load_rules_of(folder: str | None) -> Rules:
    """The rules that a command was given. Raises WrongUseError with file and line of what is wrong in them."""
    try:
        return rules_of(absolute_rules(folder))
    except (RulesError, FormatError) as error:
        raise WrongUseError(str(error)) from error
