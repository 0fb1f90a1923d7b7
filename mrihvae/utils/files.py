"""Output files that are never half written: written beside their place, then renamed into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mrihvae.errors import OutputError, reason


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Return a temporary path beside `path`; on success rename it to `path`, on any failure remove it.

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else reason(error)
        raise OutputError(f"{path}: cannot be written ({why}); free space or choose another place") from error
    finally:
        with suppress(OSError):  # the error that is on its way says more
            temporary.unlink(missing_ok=True)
