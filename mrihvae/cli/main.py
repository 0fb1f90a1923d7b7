"""The command `mrihvae`: finds the subcommand, and turns a user's mistake into one line and status 2."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mrihvae import __version__
from mrihvae.errors import InputError

COMMANDS = {
    "demo": "reconstruct a real undersampled scan that comes with the package, beside two baselines",
    "reconstruct": "reconstruct undersampled scans in files of fastMRI, ISMRMRD (MRD), BART or NumPy",
    "restore": "restore blurred, coarse, incomplete or noisy images (NIfTI, PNG)",
    "evaluate": "score reconstructions with fastMRI's metrics",
    "convert": "convert k-space and images: fastMRI HDF5, NIfTI, MRD, BART, NumPy, PNG",
    "report": "make one HTML page of a run: scores, slices, settings",
    "serve": "reconstruct scans as a scanner sends them over TCP (MRD)",
    "filter": "reconstruct a scan from standard input to standard output (MRD)",
    "protocols": "list the protocols that come with the package",
    "run": "run a protocol: reconstruct, evaluate, tabulate, draw",
    "sample": "draw images from the prior, without any data",
    "simulate": "simulate fastMRI scans of one or several coils from images",
    "train": "train a model from raw k-space and magnitude images",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return the exit status.

    0 on success, 2 on a user's mistake, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    about = "MRI reconstruction with a hierarchical VAE prior in frequency bands."
    parser = argparse.ArgumentParser(prog="mrihvae", description=about)
    parser.add_argument("--version", action="version", version=f"mrihvae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, summary in COMMANDS.items():
        subparser = commands.add_parser(
            command, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if command == name:  # the others stay unimported: torch takes seconds
            importlib.import_module(f"mrihvae.cli.options.{command}").add_arguments(subparser)
    try:
        parsed = parser.parse_args(arguments)
        importlib.import_module(f"mrihvae.cli.{parsed.command}").run(parsed)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 2
    except InputError as error:
        _end_progress()
        print(f"mrihvae: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _end_progress()
        print("mrihvae: interrupted; finished files are kept", file=sys.stderr)
        return 130
    return 0


def _end_progress() -> None:
    """Close the progress bars that an error left open, so that its message has a line of its own."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm.tqdm, "_instances", ())) if tqdm else []:
        bar.close()
