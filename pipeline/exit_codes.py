"""The exit codes, and the exceptions that lead to them."""

OK = 0
DEFECT = 1
WRONG_USE = 2
PROMISE_BROKEN = 3
FAILURES = 4
INTERRUPTED = 130
TERMINATED = 143


class WrongUseError(Exception):
    """Something that the person at the keyboard can put right: one line that says what and how."""


class PromiseBrokenError(Exception):
    """An input without a record, an output that filled up, a sink that refused: one line that says which."""
