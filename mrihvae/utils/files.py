"""Output files that are never half written: written beside their place, then renamed into it.

A temporary file is called ".NAME.HOST-PROCESS.part". What a process that was killed leaves behind is removed when
another one of the same host first writes into that folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mrihvae.errors import OutputError, reason

LEFTOVER = re.compile(r"\..*\.([0-9a-f]{8})-([0-9]+)\.part", re.DOTALL)  # host and process
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)  # by which a file system says that it cannot
_cleaned: set[tuple[int, Path]] = set()  # processes and folders, so that forked processes have their own


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Return a temporary path beside `path`; on success rename it to `path`, on any failure remove it.

    The file is on the disk, not in a cache alone, before it has its name. Left-over temporary files of processes that
    are gone are removed from the folder.

    Raises
    ------
    OutputError
        The folder cannot be made or written, or the disk is full.

    Examples
    --------
    >>> from pathlib import Path
    >>> from mrihvae.utils import atomic_write
    >>> with atomic_write(Path("note.txt")) as temporary:
    ...     _ = temporary.write_text("whole or not there")
    >>> [path.name for path in Path().iterdir()]
    ['note.txt']
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(path.parent)
        if temporary.is_symlink():  # of somebody who would have another file written
            temporary.unlink()
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else reason(error)
        raise OutputError(f"{path}: cannot be written ({why}); free space or choose another place") from error
    finally:
        with suppress(OSError):  # the error that is on its way says more
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_pair(data: Path, index: Path) -> Iterator[tuple[Path, Path]]:
    """Return temporary paths for data and the file that says what they are; on success rename the data last.

    An index without data is no output, and data never stand without the index that is theirs: earlier data are removed
    once both new files are whole, before the index is replaced. So a process that is killed leaves both files of one
    write, or no data, so that nothing is lost by writing again.

    Raises
    ------
    OutputError
        As `atomic_write`; unless both files can be written, earlier ones stay.
    """
    with atomic_write(data) as of_data, atomic_write(index) as of_index:
        yield of_data, of_index
        for temporary in (of_index, of_data):
            _sync(temporary)  # the last that can fail for want of space, before the earlier output goes
        data.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Name the temporary file, or folder, of this process for an output."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.part")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes of this host that are gone."""
    with suppress(OSError):
        found = [(entry.path, LEFTOVER.fullmatch(entry.name)) for entry in os.scandir(folder)]
        for name, match in found:
            if match and match[1] == _host() and not _is_running(int(match[2])):
                path = Path(name)
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _clean_once(folder: Path) -> None:
    """Remove leftovers when this process first writes into a folder."""
    key = (os.getpid(), folder.absolute())
    if key not in _cleaned:
        _cleaned.add(key)
        remove_leftovers(folder)


@cache
def _host() -> str:
    """Return 8 digits for the host, and for the container where processes are numbered for themselves."""
    name = socket.gethostname()
    with suppress(OSError):
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]


def _is_running(process: int) -> bool:
    """Return whether there is a process of this number; also where that cannot be found out."""
    if os.name != "posix":  # elsewhere signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system can say so."""
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
