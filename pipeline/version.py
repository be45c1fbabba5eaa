"""The version of the installed distribution."""

from importlib import metadata

DISTRIBUTION = "crashbeam"


def find_version() -> str:
    """The version; ``unknown`` where crashbeam runs without being installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
