"""`mrihvae filter`: a scan as a stream of messages on standard input, its images on standard output."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial

from mrihvae.cli import options
from mrihvae.errors import InputError
from mrihvae.io.mrd.extra import require_ismrmrd


def run(arguments: options.Filter) -> None:
    """Reconstruct the scan; a mistake is reported in the stream, too."""
    require_ismrmrd("mrihvae filter")
    from mrihvae.io.mrd.messages import ReplyWriter, one_line, read_messages
    from mrihvae.server.session import load_engine, reconstruct_stream

    output = sys.stdout.buffer

    def write(message: bytes) -> None:
        output.write(message)
        output.flush()  # the next program waits for it

    replies = ReplyWriter(write)
    try:
        engine = load_engine(arguments.protocol, arguments.device)
        reconstruct_stream(
            read_messages(partial(os.read, sys.stdin.fileno())),
            replace(engine, request=replace(engine.request, pixels=arguments.pixels)),
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
