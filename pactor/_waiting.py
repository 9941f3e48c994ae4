"""Nobody waits without reading.

Two processes that wait for room in each other's mailboxes would wait for ever if neither read its own. So whoever
waits in pactor, for whatever, goes on reading what comes to its own process: an actor its mailbox, an asker its
replies. Both register here.
"""

from __future__ import annotations

import select
import time
from typing import Protocol


class Reader(Protocol):
    """Something that is to be read while its process waits."""

    fd: int

    def claim(self) -> bool:
        """Claims the right to read; False where another thread has it, or this one may not."""

    def read(self) -> object:
        """Reads what there is, without waiting."""

    def release(self) -> None:
        """Gives the right back."""


readers: list[Reader] = []


def wait(fd: int, event: int, deadline: float | None) -> bool:
    """Waits until ``fd`` is ready for ``event`` (as in `select.poll`) or broken; False once ``deadline`` is past."""
    claimed = {reader.fd: reader for reader in readers if reader.fd != fd and reader.claim()}
    try:
        poll = select.poll()
        poll.register(fd, event)
        for other in claimed:
            poll.register(other, select.POLLIN)
        while True:
            for ready, _ in poll.poll(milliseconds(deadline)):
                if ready == fd:
                    return True
                claimed[ready].read()
            if deadline is not None and time.monotonic() >= deadline:
                return False
    finally:
        for reader in claimed.values():
            reader.release()


def milliseconds(deadline: float | None) -> float | None:
    """What `select.poll` wants: the time left, rounded up, so that nobody wakes too early and spins."""
    if deadline is None:
        return None
    return max(0.0, (deadline - time.monotonic()) * 1000)


def deadline_in(timeout: float | None) -> float | None:
    """The moment on the monotonic clock that is ``timeout`` seconds from now; None for never."""
    return None if timeout is None else time.monotonic() + timeout
