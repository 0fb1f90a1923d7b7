"""Options of `mrihvae serve`."""

from __future__ import annotations

import argparse

from mrihvae.server.request import PIXELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all, without protection")
    parser.add_argument("--port", type=int, default=9002, help="port to listen on; 0 for one that is free")
    parser.add_argument("--protocol", help="how to reconstruct: a protocol's name or file; left out, the usual way")
    parser.add_argument("--pixels", choices=PIXELS, default="float", help="of images, where a scan asks for none")
    parser.add_argument("--max-connections", type=int, default=4, help="scans at once; further ones wait")
    parser.add_argument("--max-memory", type=float, default=8.0, help="GiB of k-space that are held of a scan at most")
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds that may pass until a client has sent its next message"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
