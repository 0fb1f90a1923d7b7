"""What commands that process files one by one have in common: the output folder, resuming, files that fail."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrihvae.cli.console import show_error
from mrihvae.cli.events import log_event
from mrihvae.errors import InputError, OutputError

ROOM = 2**20  # bytes, the least that must be free for results


class Failures:
    """Files that failed, while the others go on.

    Attributes
    ----------
    total : number of files; a single one has none to go on with, so that its error ends the command
    reasons : what was wrong, by the name of the file
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: dict[str, str] = {}

    @contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Print and keep the error of a file; that of an output ends the command, as others would not fare better."""
        try:
            yield
        except OutputError:
            raise
        except InputError as error:
            if self.total == 1:
                raise
            self.reasons[name] = str(error)
            log_event("failure", "error", file=name, error=str(error))
            show_error(error)

    def check_any_left(self, path: Path, verb: str) -> None:
        """Raise InputError if all files failed; `verb` says what should have become of them."""
        if len(self.reasons) == self.total:
            raise InputError(f"{path}: none of its {self.total} files was {verb}; the lines above say why")

    def records(self) -> list[dict[str, str]]:
        """List the files and their errors, for JSON."""
        return [{"file": name, "error": reason} for name, reason in self.reasons.items()]

    def conclude(self, verb: str, folder: Path, following: str) -> int:
        """Print how many files are done, where results are and what to do next; return the exit status."""
        failed = len(self.reasons)
        count = f"{self.total - failed} of {self.total} {verb}" + (f", {failed} failed" if failed else "")
        print(f"{count}: {folder}; {following}", file=sys.stderr)
        return 1 if failed else 0


def settings_lines(summary: Mapping[str, Any]) -> str:
    """Write the settings of a summary, one a line."""
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in summary.items() if value is not None)


def next_command(command: str, *words: str) -> str:
    """Return what to do next: a command that can be copied."""
    return f"next: {shlex.join(['mrihvae', command, *words])}"


def check_output(folder: Path, *below: str) -> None:
    """Check, before any work, that files can be written to a folder and to the folders `below` it.

    Raises
    ------
    OutputError
        Something else in the place of a folder, no permission, or a disk that is full.
    """
    for path in (folder, *(folder / name for name in below)):
        there = next(place for place in (path, *path.parents) if place.exists() or place.is_symlink())
        if not there.is_dir():
            what = "it" if there == path else there
            raise OutputError(f"{path}: cannot be written ({what} is a file); choose another --output")
        if not os.access(there, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: cannot be written (no permission in {there}); choose another --output")
        if shutil.disk_usage(there).free < ROOM:
            raise OutputError(f"{path}: cannot be written (the disk is full); free space or choose another --output")


def check_results(folder: Path, results: Iterable[Path], overwrite: bool, resume: bool) -> None:
    """Check that no results of an earlier call would be lost without a word.

    Parameters
    ----------
    results : what would be replaced
    overwrite, resume : whether the user allows it, or goes on

    Raises
    ------
    InputError
        Results that are there, or both options.
    OutputError
        A folder in the place of a file.
    """
    if overwrite and resume:
        raise InputError("--overwrite and --resume: contradict each other; give only one of them")
    for path in results:
        if path.is_dir() and path.suffix == ".json":
            raise OutputError(f"{path}: cannot be written (it is a folder); remove it, or choose another --output")
        if path.exists() and not overwrite and not resume:
            raise InputError(
                f"{folder}: has results already ({path.relative_to(folder)}); add --resume to continue, --overwrite to "
                "replace them, or choose another --output"
            )


def finished_before(path: Path, summary: Mapping[str, Any], same: Sequence[str], entries: str) -> dict[str, Any]:
    """Read which files an earlier call finished, as its summary at `path` lists them under `entries`; none without one.

    Raises
    ------
    InputError
        Not a summary, or one of a call in which any of `same` was another.
    """
    if not path.is_file():
        return {}
    try:
        earlier = json.loads(path.read_text())
        finished = {entry["file"]: entry for entry in earlier[entries]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: not a summary of this command ({error}); give --overwrite in place of --resume"
        ) from error
    for key in same:
        if earlier.get(key) != summary[key]:
            raise InputError(
                f"{path}: was made with {key} {earlier.get(key)}, not {summary[key]}; choose another --output, or "
                "give --overwrite in place of --resume"
            )
    return finished


def reading_of(arguments: Any) -> dict[str, Any]:
    """Return how k-space is to be read, for `mrihvae.open_kspace`: `key` and `uncentered`, where a user gave them."""
    found = {"key": arguments.key, "uncentered": arguments.uncentered}
    return {name: value for name, value in found.items() if value}
