"""Which Penstock this is."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of


def version() -> str:
    """The version of the installed distribution; "unknown" in a source tree that was never installed."""
    try:
        return version_of("penstock")
    except PackageNotFoundError:
        return "unknown"
