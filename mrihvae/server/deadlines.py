"""How long a server waits for a client: what is no progress of a scan prolongs nothing."""

from __future__ import annotations

import time

from mrihvae.server.listener import ServerSettings


class Deadlines:
    """Deadlines of a connection; only the header, lines and images are progress.

    Attributes
    ----------
    opened, useful : whether the header came, and whether a line or image did
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._began = self._moved = self._waiting = time.monotonic()
        self._entered: float | None = None  # when the first byte of the message came that is not whole
        self._progressed = False
        self.opened = self.useful = False

    def begin(self) -> None:
        """Wait for the next message; what was done with the one before is not the client's time."""
        self._waiting, self._entered = time.monotonic(), None
        if self._progressed:
            self._moved, self._progressed = self._waiting, False

    def enter(self) -> None:
        """Note that bytes of the message came."""
        if self._entered is None:
            self._entered = time.monotonic()

    def progress(self, useful: bool) -> None:
        """Note that a header came, or a line or image (`useful`)."""
        self._progressed = self.opened = True
        self.useful = self.useful or useful

    def left(self, others_wait: bool) -> float:
        """Compute for how many seconds to wait.

        Raises
        ------
        TimeoutError
            There was time enough; says for what.
        """
        limit = self._settings
        reasons = {
            f"no whole message came for {limit.timeout:g} s": self._waiting + limit.timeout,
            f"the scan took more than {limit.scan_timeout:g} s": self._began + limit.scan_timeout,
        }
        if self._entered is not None:
            reasons[f"a message took more than {limit.message_timeout:g} s"] = self._entered + limit.message_timeout
        if not self.opened:
            reasons[f"no header came for {limit.first_timeout:g} s"] = self._began + limit.first_timeout
        else:
            reasons[f"no line came for {limit.timeout:g} s"] = self._moved + limit.timeout
        if self.opened and others_wait:
            idle = limit.idle_timeout if self.useful else limit.first_timeout
            reasons[f"no line came for {idle:g} s, and others wait"] = self._moved + idle
        reason = min(reasons, key=reasons.__getitem__)
        left = reasons[reason] - time.monotonic()
        if left <= 0:
            raise TimeoutError(reason)
        return left

    @property
    def age(self) -> float:
        """Seconds since the connection came."""
        return time.monotonic() - self._began
