"""An output folder to which several processes write at once: who writes what, and a record that loses no rows."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mrihvae.errors import InputError, OutputError
from mrihvae.utils.files import atomic_write

CLAIM = ".writing."  # begins the names of claims
PATIENCE = 120.0  # seconds for the lock, which is held while a record is read and written
SHOWN = 3  # names of files in an error
SLOW, SHARE = 0.05, 0.05  # a record that takes more seconds to write than SLOW takes SHARE of the time at most

Rows = dict[str, dict[str, Any]]


@contextmanager
def claim_results(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Claim the names of results in a folder for this process, for as long as the block runs.

    A claim is a file with a lock that ends with its process. Claims of processes that ended without removing them are
    removed. Where the file system has no locks, nothing is claimed.

    Raises
    ------
    InputError
        Another process is writing results of these names.
    """
    wanted, missing = set(names), not folder.exists()
    own = folder / f"{CLAIM}{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.json"
    lock = FileLock(own.with_suffix(".lock"))
    try:
        with suppress(OSError), _locked(folder / f"{CLAIM}lock"):
            _check_claims(folder, wanted)
            lock.acquire(blocking=False)
            with own.open("w", encoding="utf-8") as file:
                json.dump(sorted(wanted), file)
        yield
    finally:
        for path in (own, own.with_suffix(".lock")):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()
        if missing:
            with suppress(OSError):  # it holds results
                folder.rmdir()


class SharedRecord:
    """A record in JSON to which several processes add their rows.

    Before each writing the file is read again, and rows that another process added stay. Rows that were there before
    this process began are replaced by its own, unless it keeps them.

    Parameters
    ----------
    path : the JSON
    same : keys of settings that rows of one record share
    files : names of this process's input files; a failure of one of them that others recorded is dropped
    keep : whether rows that are there already are kept, too; failures that are there already never are
    """

    def __init__(self, path: Path, same: Sequence[str], files: Iterable[str], keep: bool = False) -> None:
        self.path, self.same, self.files = path, same, set(files)
        self._dropped = {**_read(path), **({"volumes": []} if keep else {})}
        self._due = 0.0  # time of the next writing

    def write(
        self,
        rows: Mapping[str, Mapping[str, Any]],
        failed: Sequence[Mapping[str, str]],
        complete: Callable[[Rows, list[dict[str, str]]], Mapping[str, Any]],
        last: bool = False,
    ) -> None:
        """Write the record with the rows and failures of all processes; a large one not every time.

        Parameters
        ----------
        rows, failed : of this process, by name of the scan, and with the name of the file
        complete : takes the rows and failures of all, and returns the values of the record
        last : write it in any case

        Raises
        ------
        InputError
            Another process writes to the record with other settings.
        OutputError
            It cannot be written.
        """
        if not last and time.perf_counter() < self._due:
            return
        with _locked(self.path.with_name(f".{self.path.name}.lock")):
            began = time.perf_counter()
            there, dropped = _read(self.path), self._dropped
            old = {json.dumps(entry, sort_keys=True) for key in ("volumes", "failed") for entry in dropped.get(key, ())}
            added = {
                key: [entry for entry in there.get(key, ()) if json.dumps(entry, sort_keys=True) not in old]
                for key in ("volumes", "failed")
            }
            others: Rows = {entry["file"]: entry for entry in added["volumes"] if entry["file"] not in rows}
            own = self.files | {entry["file"] for entry in failed}
            further = [entry for entry in added["failed"] if entry["file"] not in own]
            values = dict(
                complete({**others, **{name: dict(row) for name, row in rows.items()}}, [*further, *map(dict, failed)])
            )
            if others or further:
                self._check_settings(there, values)
            try:
                text = json.dumps(values, indent=2, allow_nan=False)
            except ValueError as error:
                raise OutputError(
                    f"{self.path}: has rows that are damaged ({error}); choose another --output"
                ) from error
            with atomic_write(self.path) as temporary:
                temporary.write_text(text + "\n")
            self._dropped = {}
        seconds = time.perf_counter() - began
        self._due = began + seconds / SHARE if seconds > SLOW else 0.0

    def _check_settings(self, there: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Raise InputError if another process writes to the record with other settings."""
        own = json.loads(json.dumps({key: values.get(key) for key in self.same}))
        for key in self.same:
            if there.get(key) != own[key]:
                raise OutputError(
                    f"{self.path}: another process writes to it with {key} {there.get(key)}, not {own[key]}; choose "
                    "another --output"
                )


def remove_parts(results: Iterable[Path]) -> None:
    """Remove what processes that were killed left of results that they had not finished."""
    names: dict[Path, set[str]] = {}
    for path in results:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        for part in folder.glob(".*.part"):
            words = part.name.removeprefix(".").split(".")
            if not any(".".join(words[:count]) in wanted for count in range(1, len(words))):
                continue
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def _check_claims(folder: Path, wanted: set[str]) -> None:
    """Raise InputError if a process that runs claims one of the names; remove claims of processes that ended."""
    found = [path for path in folder.glob(f"{CLAIM}*.*") if path.suffix in (".json", ".lock")]
    for path in sorted({one.with_suffix(".json") for one in found}):  # a kill may have left one of the two alone
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            both = sorted(wanted & _claimed(path))
            if both:
                host, process = path.name.removeprefix(CLAIM).rsplit(".", 3)[:2]
                more = f" and {len(both) - SHOWN} more" if len(both) > SHOWN else ""
                raise InputError(
                    f"{folder}: process {process} on {host} is writing {', '.join(both[:SHOWN])}{more} there; wait "
                    "until it ends, or choose another --output"
                ) from None
        except OSError:  # of another user: whether that process runs is not known
            continue
        else:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()


def _claimed(path: Path) -> set[str]:
    """Return the names that a claim lists; none of one that was removed just now, or is damaged."""
    try:
        return {name for name in json.loads(path.read_text(encoding="utf-8")) if isinstance(name, str)}
    except (OSError, ValueError, TypeError, RecursionError):
        return set()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; go on without one where the file system has none: a writer by itself needs none."""
    lock = FileLock(path, timeout=PATIENCE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"{path}: another process holds this lock; end it, or choose another --output") from error
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is held: whoever waits for it notices, and makes another
        lock.release()


def _read(path: Path) -> dict[str, Any]:
    """Read a record; an empty one where there is none, or something else."""
    if not path.is_file():  # a pipe has no end
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = [entry for key in ("volumes", "failed") for entry in values.get(key, ())]
        return dict(values) if all(isinstance(row["file"], str) for row in rows) else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
