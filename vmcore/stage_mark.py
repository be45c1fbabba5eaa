"""Which stage the analysis is in, told to whoever watches: a child process that dies has marked its last one."""

from collections.abc import Callable

from crashbeam.schemas.codes import Stage


class _Mark:
    """The stage of this process, and who is told of a change."""

    def __init__(self) -> None:
        self.stage = Stage.OPEN
        self.hook: Callable[[Stage], None] | None = None


_MARK = _Mark()


def set_stage_hook(hook: Callable[[Stage], None] | None) -> None:
    """Calls ``hook`` at every stage that is entered from now on; ``None`` stops it."""
    _MARK.hook = hook


def enter(stage: Stage) -> None:
    """Marks that ``stage`` begins."""
    _MARK.stage = stage
    if _MARK.hook is not None:
        _MARK.hook(stage)


def current() -> Stage:
    """The stage that was entered last."""
    return _MARK.stage
