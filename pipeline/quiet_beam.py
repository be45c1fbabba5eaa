"""Imports Beam without the warning about missing Google libraries that it prints at every import."""

import logging
from importlib import import_module


def import_quietly() -> None:
    """Imports ``apache_beam``. A handler on the root logger keeps it from installing one of its own."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    root.addFilter(_is_no_apitools_warning)
    try:
        import_module("apache_beam")
    finally:
        root.removeFilter(_is_no_apitools_warning)


def _is_no_apitools_warning(record: logging.LogRecord) -> bool:
    return "apitools" not in record.getMessage()
