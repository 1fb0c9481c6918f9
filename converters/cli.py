"""The command ``calif``. Exit 0 on success, 1 when a check fails, 2 on bad usage or bad input."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from converters.errors import ConversionError
from converters.notices import silenced

__all__ = ["main"]

_UsageError: Any = typer.BadParameter.__base__  # typer brings its own click, or uses the one installed


def _app() -> typer.Typer:
    from converters.commands import (
        bench,
        checking,
        demo,
        inspecting,
        interop,
        lowering,
        report,
        reproduce,
        running,
        training,
    )

    app = typer.Typer(
        name="calif",
        help="Quantised networks to Ca-LIF spiking networks: exactly, and on several simulators.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.command()(demo.demo)
    app.command()(training.train)
    app.command()(training.convert)
    app.command()(running.run)
    app.command()(running.sweep)
    app.command("cross-check")(checking.cross_check)
    app.command("lower")(lowering.lower_command)
    app.command()(inspecting.inspect)
    app.command()(interop.interop)
    app.command()(report.report)
    app.command()(bench.bench)
    app.command()(reproduce.reproduce)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user's end in one line on standard error."""
    warnings.simplefilter("ignore")  # those of libraries; ours are errors
    with silenced():
        sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(_app())(arguments, prog_name="calif", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ConversionError as error:
        return _fail(str(error))
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(error.format_message() + "\n")
            return 2
        return _fail(error.format_message())
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped")
        return 130
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail(f"{error.filename or 'file'}: {error.strerror or error}")


def _fail(message: str) -> int:
    sys.stderr.write("calif: " + " ".join(message.split()) + "\n")
    return 2


if __name__ == "__main__":
    main()
