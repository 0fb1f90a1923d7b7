"""Seconds until a command answers: imports, each in a new process."""

from __future__ import annotations

import subprocess
import sys


class Imports:
    """Whole processes, Python's start among them."""

    unit = "seconds"
    params = ("import mrihvae", "import mrihvae.cli.main", "import mrihvae; mrihvae.reconstruct")
    param_names = ("code",)
    timeout = 120.0
    number = 1

    def time_import(self, code: str) -> None:
        """Run Python with the imports."""
        subprocess.run([sys.executable, "-c", code], check=True)
