"""Where the installed command ``calif`` begins: without its packages it says what to install, in one line."""

from __future__ import annotations

import sys

from converters.extras import missing

__all__ = ["main"]


def main() -> None:
    """Run :func:`converters.cli.main`."""
    try:
        from converters.cli import main as command
    except ModuleNotFoundError as error:
        found = missing(error)
        if found is None:
            raise
        sys.stderr.write(f"calif: {found}\n")
        sys.exit(2)
    command()
