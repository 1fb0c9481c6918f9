"""The command ``calif``. Exit 0 on success, 1 when a check fails, 2 on bad usage or bad input.

Commands import what they work with when they run: ``--help`` and wrong options are answered at once.
"""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from typing import Annotated, Any

import typer

from converters.console.notices import silenced
from converters.console.printing import STANDARD_OUTPUT, printable, standard_output
from converters.console.typed import remember
from converters.errors import ConversionError, ConversionWarning
from converters.extras import missing

__all__ = ["main"]

_UsageError: Any = typer.BadParameter.__base__  # typer brings its own click, or uses the one installed


def _app() -> typer.Typer:
    from converters.commands import (
        bench,
        checking,
        converting,
        demo,
        inspecting,
        interop,
        lowering,
        parity,
        post_training,
        report,
        reproduce,
        running,
        training,
    )

    app = typer.Typer(
        name="calif",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_calif)
    app.command()(demo.demo)
    app.command()(training.train)
    app.command()(post_training.quantise)
    app.command()(converting.convert)
    app.command()(parity.parity)
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


def _version(wanted: bool) -> None:
    if wanted:
        with standard_output():
            sys.stdout.write(f"calif {version('calif-plugins')}\n")
        raise typer.Exit


def _calif(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Quantised networks to Ca-LIF spiking networks: exactly, and on several simulators."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user's end in one line on standard error."""
    with silenced(), _any_encoding(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of libraries
        warnings.simplefilter("always", ConversionWarning)
        warnings.showwarning = _warn
        sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    """The exit code. Whatever a user, a file or the machine can bring about is caught here, and nowhere else."""
    if sys.stdout is None:
        return _fail("standard output: found that it is closed; open it, or send it to /dev/null")
    remember(arguments)
    try:
        code = _call(list(arguments))
        with standard_output():
            sys.stdout.flush()  # a full disk behind it shows here, and not after the last line of this program
        return code
    except ConversionError as error:
        return _fail(str(error))
    except _UsageError as error:
        return _fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped")
        return 130
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail_of_system(error, arguments)
    except ModuleNotFoundError as error:
        found = missing(error)
        if found is None:
            raise
        return _fail(str(found))
    except (OverflowError, ZeroDivisionError, RecursionError, MemoryError) as error:
        return _fail(f"{_inputs(arguments)}: found {_BEYOND[_kind(error)]} ({_told(error)}); {_TODO[_kind(error)]}")
    except RuntimeError as error:  # PyTorch has no others for memory and for numbers beyond 64 bits
        text = str(error).lower()
        kind: type = MemoryError if any(words in text for words in _NO_MEMORY) else OverflowError
        if kind is OverflowError and "overflow" not in text:
            raise
        return _fail(f"{_inputs(arguments)}: found {_BEYOND[kind]} ({_told(error)}); {_TODO[kind]}")


def _call(arguments: list[str]) -> int:
    command = typer.main.get_command(_app())
    try:
        with _help_is_output(arguments), command.make_context("calif", arguments) as context:
            code = command.invoke(context)
    except typer.Exit as error:
        return error.exit_code
    except _UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise
        with standard_output():
            sys.stdout.write(error.format_message() + "\n")
        return 2
    return code if isinstance(code, int) else 0


def _help_is_output(arguments: list[str]) -> AbstractContextManager[None]:
    return standard_output() if "--help" in arguments else nullcontext()


_BEYOND: dict[type, str] = {
    OverflowError: "numbers beyond what is computed with",
    ZeroDivisionError: "a zero that something is divided by",
    RecursionError: "something nested too deeply",
    MemoryError: "more than fits into memory",
}
_TODO: dict[type, str] = dict.fromkeys(_BEYOND, "check what the file holds") | {
    MemoryError: "give fewer images at a time (--batch), or a smaller network"
}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def _kind(error: BaseException) -> type:
    return next(kind for kind in _BEYOND if isinstance(error, kind))  # NumPy has subclasses


def _told(error: BaseException) -> str:
    """Kind, message and place of an error, for whoever looks for its cause."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _PACKAGES.search(f.filename)]
    place = f" at {_PACKAGES.split(frames[-1].filename)[-1]}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text[:120]}' if text else ''}{place}"


_PACKAGES = re.compile(r"[/\\](?=(?:converters|calif_plugins)[/\\])")


def _inputs(arguments: list[str]) -> str:
    """The files that were given, or else the command: an error of arithmetic does not know whose its numbers are."""
    given = [a.partition("=")[2] if a.startswith("--") and "=" in a else a for a in arguments]
    return ", ".join(dict.fromkeys(a for a in given if os.path.exists(a))) or " ".join(["calif", *arguments[:1]])


def _fail_of_system(error: OSError, arguments: list[str]) -> int:
    if error.filename == STANDARD_OUTPUT:  # what is left in it could not be written when Python ends, either
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + 13  # whoever read has read enough: as a program that SIGPIPE ended
    return _fail(f"{error.filename or _inputs(arguments)}: {error.strerror or error}")


@contextmanager
def _any_encoding() -> Iterator[None]:
    """What an ASCII terminal or file cannot show is written as an escape."""
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            changed.append((stream, stream.errors))
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            stream.reconfigure(errors=errors)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"note: {message}")


def _fail(message: str) -> int:
    _say(message)
    return 2


def _say(message: str) -> None:
    with suppress(OSError, AttributeError):  # standard error may be full, or closed
        sys.stderr.write("calif: " + printable(" ".join(message.split())) + "\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
