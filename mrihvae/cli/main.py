"""The command `mrihvae`: finds the subcommand, and turns a user's mistake into one line and status 2."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from cyclopts.help import DefaultFormatter, PanelSpec
from rich.box import Box

from mrihvae import __version__
from mrihvae.cli.console import end_progress, show_error, silence
from mrihvae.cli.options import COMMANDS
from mrihvae.cli.sections import USUAL, Options
from mrihvae.errors import InputError

ABOUT = "MRI reconstruction with a hierarchical VAE prior in frequency bands."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return the exit status.

    0 on success, 1 if some of the files failed, 2 on a user's mistake, 130 when interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parse(list(sys.argv[1:] if arguments is None else arguments))
        status = 0 if options is None else _run(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here
        return status
    except UnusedCliTokensError as error:
        show_error(f"{error} See 'mrihvae {' '.join(error.command_chain or ())} --help'.")
        return 2
    except MissingArgumentError as error:
        absent = error.keyword is None and not error.tokens_so_far  # else the option is there, without its value
        show_error(str(error).replace("requires an argument.", "is missing; add it.") if absent else error)
        return 2
    except (InputError, CycloptsError) as error:
        end_progress()
        show_error(error)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not _is_lost(error):
            raise
        end_progress()
        show_error(f"standard output: cannot be written ({os.strerror(error.errno or 0)}); free space, or redirect it")
        return 2
    except KeyboardInterrupt:
        end_progress()
        print("mrihvae: interrupted; finished files are kept", file=sys.stderr)
        return 130


def _is_lost(error: OSError) -> bool:
    """Return whether standard output cannot be written, as on a full disk, and from here on throw it away."""
    try:
        if error.filename is None and sys.stdout is not None:
            print(flush=True)
    except OSError as again:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return again.errno == error.errno
    return False


def _run(options: Options) -> int:
    """Run a command; return its exit status."""
    quiet = getattr(options, "quiet", False)
    if quiet and getattr(options, "verbose", False):
        raise InputError("--verbose and --quiet: contradict each other; give only one of them")
    command = importlib.import_module(f"mrihvae.cli.{type(options).__name__.lower()}")
    with silence() if quiet else nullcontext():
        return int(command.run(options) or 0)


def parse(arguments: Sequence[str]) -> Options | None:
    """Return the options of a command line, as the class of its command; None after help or --version.

    Without a command there is help, too.

    Raises
    ------
    cyclopts.CycloptsError
        Options or values that the command does not know, or lacks.
    """
    command, bound, _ = make_app().parse_args(arguments or ["--help"], exit_on_error=False, print_error=False)
    try:
        options = command(*bound.args, **bound.kwargs)
    except SystemExit as leaving:  # so rich leaves where the reader of our output has seen enough
        raise BrokenPipeError from leaving
    return options if isinstance(options, Options) else None


def make_app() -> App:
    """Declare the commands for cyclopts; help is in plain text, in lines and columns without a box."""
    layout = DefaultFormatter(panel_spec=PanelSpec(box=Box(8 * "    \n"), padding=(0, 0, 0, 3)))
    app = App(
        name="mrihvae",
        help=ABOUT,
        version=f"mrihvae {__version__}",
        help_format="plaintext",
        help_formatter=layout,
        default_parameter=USUAL,
    )
    for place, (name, command) in enumerate(COMMANDS.items()):
        summary, _, further = (inspect.getdoc(command) or "").partition("\n\n")
        paragraphs = re.sub(r"(?<=\S)\n(?=\S)", " ", further)  # to be wrapped again, but for examples
        app.command(command, name=name, help=summary, help_epilogue=paragraphs, sort_key=place)
    return app
