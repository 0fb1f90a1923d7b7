"""Options of commands. What is in a file."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import KEY, MAX_MEMORY, UNCENTERED
from mrihvae.cli.sections import FILES, Options


class Info(Options):
    """describe files with k-space: scans, coils, sampling, checks, and the command to reconstruct them

    A file that cannot be read is described by its error, and the status is 1 then.

    Examples:
      mrihvae info scan.h5
      mrihvae info scans/ --json > scans.json
    """

    files: tuple[Path, ...] = FILES("files with k-space, or folders of them", name="FILE", positional=True)
    json: bool = FILES("write a list of objects, one a file, for programs", False)
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    max_memory: float | None = MAX_MEMORY()
