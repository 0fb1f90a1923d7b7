"""`mrihvae filter`: a scan as a stream of messages on standard input, its images on standard output."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from functools import partial

from mrihvae.errors import InputError
from mrihvae.mrd import needed
from mrihvae.scanner_requests import PIXELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--protocol", help="how to reconstruct: a protocol's name or file; left out, the usual way")
    parser.add_argument("--pixels", choices=PIXELS, default="float", help="of images, where the scan asks for none")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def run(arguments: argparse.Namespace) -> None:
    """Reconstruct the scan; a mistake is told in the stream, too."""
    needed("mrihvae filter")
    from mrihvae.mrd_replies import ReplyWriter, one_line
    from mrihvae.mrd_stream import read_messages
    from mrihvae.online import make_ready, respond

    output = sys.stdout.buffer

    def write(message: bytes) -> None:
        output.write(message)
        output.flush()  # the next program waits for it

    replies = ReplyWriter(write)
    try:
        ready = make_ready(arguments.protocol, arguments.device)
        respond(
            read_messages(partial(os.read, sys.stdin.fileno())),
            replace(ready, request=replace(ready.request, pixels=arguments.pixels)),
            replies,
        )
    except InputError as error:
        replies.text(f"ERROR mrihvae: {one_line(error)}")
        raise
    except Exception:
        replies.text("ERROR mrihvae: the reconstruction failed")
        raise
    finally:
        replies.close()
