"""What a command does, one JSON object a line, for programs that watch it: `--log-json FILE`.

Every line has "time" (UTC), "level" (info, warning or error) and "event"; the others depend on the event.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from mrihvae import __version__
from mrihvae.errors import OutputError, reason
from mrihvae.utils.notices import LOG

_file: ContextVar[TextIO | None] = ContextVar("events", default=None)


def run_logged(path: Path | None, command: str, run: Callable[[], int]) -> int:
    """Run a command, and log its start and end, and the error that ends it; return its exit status.

    Parameters
    ----------
    path : to which lines are added; None for no log

    Raises
    ------
    OutputError
        The log cannot be written.
    """
    if path is None:
        return run()
    began, status = time.perf_counter(), 2
    with _opened(path):
        log_event("start", command=command, mrihvae=__version__, process=os.getpid())
        try:
            status = run()
        except KeyboardInterrupt:
            status = 130
            log_event("interrupted", "error")
            raise
        except Exception as error:
            log_event("error", "error", error=str(error) or type(error).__name__)
            raise
        finally:
            log_event("end", status=status, seconds=round(time.perf_counter() - began, 3))
    return status


def log_event(event: str, level: str = "info", **values: Any) -> None:
    """Add a line to the log, if there is one.

    Raises
    ------
    OutputError
        It cannot be written; further lines are left out.
    """
    file = _file.get()
    if file is not None:
        try:
            _write(file, event, level, values)
        except OutputError:
            _file.set(None)
            raise


def _write(file: TextIO, event: str, level: str, values: Mapping[str, Any]) -> None:
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": when, "level": level, "event": event, **values}, default=str)
    try:
        file.write(line + "\n")  # control characters are escaped in it
    except OSError as error:
        raise _unwritable(Path(file.name), error) from error


def log_volume(row: Mapping[str, Any]) -> None:
    """Log a volume that was reconstructed, and its warnings."""
    log_event("volume", **{name: value for name, value in row.items() if name != "warnings"})
    for text in row["warnings"]:
        log_event("warning", "warning", file=row["file"], warning=text)


class _Records(logging.Handler):
    """Adds warnings that belong to no result to the log, from whichever thread, and events of the server.

    An event is a record with `extra={"event": name, "values": {...}}`.
    """

    def __init__(self, file: TextIO) -> None:
        super().__init__(logging.INFO)
        self._file: TextIO | None = file

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", "warning")
        values = dict(getattr(record, "values", {"warning": record.getMessage()}))
        if record.exc_info and record.exc_info[1] is not None:
            values["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        file, self._file = self._file, None
        if file is None:
            return
        try:
            _write(file, event, record.levelname.lower(), values)
        except OutputError:
            if threading.current_thread() is threading.main_thread():
                raise
            return  # a server goes on without its log
        self._file = file


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Open the log; lines are written whole, so that several processes may share it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise _unwritable(path, error) from error
    handler, token = _Records(file), _file.set(file)
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        _file.reset(token)
        with suppress(OSError):  # a line that could not be written is in its buffer still
            file.close()


def _unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error of a log that cannot be written."""
    why = os.strerror(error.errno) if error.errno else reason(error)
    return OutputError(f"--log-json {path}: cannot be written ({why}); free space or choose another place")
