"""The command `mrihvae`: finds the subcommand, and turns a user's mistake into one line and status 2."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.help import DefaultFormatter, PanelSpec
from rich.box import Box

from mrihvae import __version__
from mrihvae.cli.options import COMMANDS
from mrihvae.cli.sections import USUAL, Options
from mrihvae.errors import InputError

ABOUT = "MRI reconstruction with a hierarchical VAE prior in frequency bands."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return the exit status.

    0 on success, 1 where the command says so, 2 on a user's mistake, 130 when interrupted.
    """
    try:
        options = parse(list(sys.argv[1:] if arguments is None else arguments))
        if options is not None:
            return importlib.import_module(f"mrihvae.cli.{type(options).__name__.lower()}").run(options) or 0
    except (InputError, CycloptsError) as error:
        _end_progress()
        print("mrihvae: error:", str(error).replace("\n", " "), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _end_progress()
        print("mrihvae: interrupted; finished files are kept", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> Options | None:
    """Return the options of a command line, as the class of its command; None after --help or --version.

    Raises
    ------
    InputError
        No command.
    cyclopts.CycloptsError
        Options or values that the command does not know, or lacks.
    """
    if not arguments:
        raise InputError(f"COMMAND: is missing; give one of {', '.join(COMMANDS)}, or --help")
    command, bound, _ = _make_app().parse_args(arguments, exit_on_error=False, print_error=False)
    try:
        options = command(*bound.args, **bound.kwargs)
    except SystemExit as leaving:  # so rich leaves where the reader of our output has seen enough
        raise BrokenPipeError from leaving
    return options if isinstance(options, Options) else None


def _make_app() -> App:
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


def _end_progress() -> None:
    """Close the progress bars that an error left open, so that its message has a line of its own."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm.tqdm, "_instances", ())) if tqdm else []:
        bar.close()
