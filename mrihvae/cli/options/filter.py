"""Options of `mrihvae filter`."""

from __future__ import annotations

import argparse

from mrihvae.server.request import PIXELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--protocol", help="how to reconstruct: a protocol's name or file; left out, the usual way")
    parser.add_argument("--pixels", choices=PIXELS, default="float", help="of images, where the scan asks for none")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
