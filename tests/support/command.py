"""The command with an engine that starts fast: `python -m tests.support.command ENGINE GRACE COMMAND ...`.

ENGINE is a function of `tests.support.serving`, GRACE the seconds that a server waits for scans when it stops, or
"usual". It is started in the root of the repository, from where Python finds package and tests.
"""

from __future__ import annotations

import sys

from mrihvae.cli.main import main
from mrihvae.server import engine, tcp
from tests.support import serving


def run(name: str, grace: str, *words: str) -> int:
    """Run the command with another engine; return its status."""
    engine.load_engine = lambda *_: getattr(serving, name)()
    if grace != "usual":
        tcp.GRACE = tcp.CUT = float(grace)
    return main(words)


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
