"""Options of commands. What is in a file."""

from __future__ import annotations

from pathlib import Path

from mrihvae.cli.options.common import KEY, MAX_MEMORY, UNCENTERED
from mrihvae.cli.sections import INPUT, RESULTS, Options


class Info(Options):
    """describe files with k-space: scans, coils, sampling, checks, and the command to reconstruct them

    If a file cannot be read, its error is printed, and the exit status is 1.

    Examples:
      mrihvae info scan.h5
      mrihvae info scans/ --json > scans.json
    """

    files: tuple[Path, ...] = INPUT("files with k-space, or folders of them", name="FILE", positional=True)
    json: bool = RESULTS("print a JSON list, one object per file, for programs", False)
    key: str | None = KEY()
    uncentered: bool = UNCENTERED()
    max_memory: float | None = MAX_MEMORY()
