"""How much a server holds in memory for all of its connections together."""

from __future__ import annotations

import sys
import threading

from mrihvae.io.mrd.messages import StreamError


class Budget:
    """Bytes of k-space, received images and waiting answers that are held for all connections, and their limit.

    Parameters
    ----------
    limit : bytes; left out, there is none
    """

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit, self.held = limit, 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count bytes that are to be held.

        Raises
        ------
        StreamError
            They are more than may be held for all connections; they are not counted then.
        """
        with self._lock:
            if self.held + size > self.limit:
                raise StreamError(
                    f"stream: all connections together would hold more than {self.limit / 2**30:.3g} GiB of k-space "
                    "and images; send the scan again later, or raise --max-total-memory"
                )
            self.held += size

    def give(self, size: int) -> None:
        """Count bytes that are held no more."""
        with self._lock:
            self.held -= size


class Account:
    """What one holder has of a budget.

    Attributes
    ----------
    held : bytes
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self.held = budget, 0

    def hold(self, size: int) -> None:
        """Hold so many bytes from now on, in place of those before.

        Raises
        ------
        StreamError
            As `Budget.take`.
        """
        if size > self.held:
            self._budget.take(size - self.held)
        else:
            self._budget.give(self.held - size)
        self.held = size
