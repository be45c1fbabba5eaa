"""What every test may ask for: the golden dumps of this repo, and the shared corpus where there is one."""

import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.shared_corpus import has_corpus, unpacked_corpus

settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

_left_out = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The unpacked corpus: ``ppc32``, ``ppc64``, ``kernels``. For tests marked ``corpus``."""
    return unpacked_corpus()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of trimmed real dumps and their kernel profiles that ships with the repo."""
    return Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _keep_sigpipe() -> Generator[None, None, None]:
    """Commands that run in this process may set SIGPIPE as a tool at a terminal wants it: pytest must outlive that."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that need the corpus where there is none."""
    if has_corpus():
        return
    without = [item for item in items if item.get_closest_marker("corpus")]
    items[:] = [item for item in items if not item.get_closest_marker("corpus")]
    config.stash[_left_out] = len(without)
    config.hook.pytest_deselected(items=without)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test of the corpus that skips itself has failed: it proved nothing about dumps that are there."""
    report = yield
    if report.skipped and item.get_closest_marker("corpus"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, though the corpus is there"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out."""
    count = config.stash.get(_left_out, 0)
    if count:
        terminalreporter.write_line(
            f"no shared corpus here: {count} tests on its real dumps were left out (set SHARED)"
        )
