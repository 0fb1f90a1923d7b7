"""`mrihvae completion`: the script with which a shell completes commands, options and choices."""

from __future__ import annotations

from typing import Any

from mrihvae.cli.main import make_app
from mrihvae.cli.options import Completion


def run(arguments: Completion) -> None:
    """Print the script."""
    shell: Any = arguments.shell  # one of the choices
    print(make_app().generate_completion(prog_name="mrihvae", shell=shell))
