"""A process for the fuzzer that crashes and hangs at known numbers; it imports little, so that it starts at once."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection

from benchmarks.robustness.workers import Outcome

CRASH, HANG = 2, 4


def serve(connection: Connection, trace: str) -> None:
    """Crash at one number, hang at another, and read the others."""
    del trace
    for batch in iter(connection.recv, None):
        for number in range(batch.start, batch.stop):
            connection.send(("start", number))
            if number == CRASH:
                os.abort()
            time.sleep(60 if number == HANG else 0)
            connection.send(("done", Outcome(batch.form, number, "", "read")))
        connection.send(("end", batch))
