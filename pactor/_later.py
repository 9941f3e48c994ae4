"""Replies that come later than their methods return: when a future is done, or a coroutine.

Their askers wait, so if the actor is killed meanwhile somebody has to tell them. Where nobody survives it, the kernel
does. A restartable actor lives on; its inbox knows the message that was handed out last, and the others it writes down.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import _runtime, _waiting

if TYPE_CHECKING:
    from ._future import Future
    from ._replies import Replies
    from ._waiting import Poll

#: The number of the ask, which asker of those in the other file, from 1 on; or zeros. A write of this size at a
#: multiple of it is never cut, also when its process is killed.
_RECORD = struct.Struct("<QQ")
_LENGTH = struct.Struct("<H")


class Unanswered:
    """The asks that a restartable actor is still to answer, as written down in its mailbox."""

    def __init__(self, mailbox: str) -> None:
        self._mailbox = mailbox
        self._asks = self._askers = -1
        self._indices: dict[bytes, int] = {}
        self._free: list[int] = []
        self._places = 0

    def close(self, _close: Callable[[int], None] = os.close) -> None:
        """Lets go of the files; what is in them stays."""
        for fd in (self._asks, self._askers):
            if fd >= 0:
                _close(fd)
        self._asks = self._askers = -1

    __del__ = close

    def add(self, asker: bytes, number: int) -> int:
        """Writes an ask down; returns the place. Raises OSError where there is none."""
        if self._asks < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
            self._asks = os.open(f"{self._mailbox}/unanswered", flags, 0o600)
            self._askers = os.open(f"{self._mailbox}/askers", flags | os.O_APPEND, 0o600)
        index = self._indices.get(asker)
        if index is None:
            # One that was cut is the last one, and no record names it.
            entry = _LENGTH.pack(len(asker)) + asker
            written = os.write(self._askers, entry)
            if written < len(entry):
                os.ftruncate(self._askers, os.fstat(self._askers).st_size - written)
                raise OSError(errno.ENOSPC, "no room to note who asked")
            index = self._indices[asker] = len(self._indices) + 1
        place = self._free.pop() if self._free else self._places
        os.pwrite(self._asks, _RECORD.pack(number, index), place * _RECORD.size)
        self._places = max(self._places, place + 1)
        return place

    def remove(self, place: int) -> None:
        """The ask in this place has been answered."""
        os.pwrite(self._asks, bytes(_RECORD.size), place * _RECORD.size)
        self._free.append(place)
        if len(self._free) == self._places:
            os.ftruncate(self._asks, 0)
            os.ftruncate(self._askers, 0)
            self._indices.clear()
            self._free.clear()
            self._places = 0


def unanswered(mailbox: str) -> Iterator[tuple[bytes, int]]:
    """What a killed process has not answered: the askers and the numbers of the asks. Forgets it."""
    try:
        with open(f"{mailbox}/unanswered", "rb") as file:
            asks = file.read()
        with open(f"{mailbox}/askers", "rb") as file:
            rest = file.read()
    except FileNotFoundError:
        return
    askers = []
    while len(rest) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
        askers.append(rest[_LENGTH.size : end])
        rest = rest[end:]
    for number, index in _RECORD.iter_unpack(asks[: len(asks) // _RECORD.size * _RECORD.size]):
        if 0 < index <= len(askers):
            yield askers[index - 1], number
    for name in ("unanswered", "askers"):
        _runtime.unlink(f"{mailbox}/{name}")


class FutureReader:
    """Sees to it that futures which nobody waits for are done some time; ``poll`` is what their actor waits with."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._waiting: set[Future[Any]] = set()
        self._replies: Replies | None = None
        #: What to wait for: `read` is to be called then.
        self.fd = -1

    def open(self, future: Any) -> None:
        """Begins to look for the replies that a future may wait for. Raises OSError where there is no descriptor."""
        if self.fd < 0 and _is_ours(future):
            replies = future._replies
            fd = replies.fileno()
            self._poll.register(fd, select.POLLIN)
            self._replies, self.fd = replies, fd

    def add(self, future: Any, done: Callable[[Any], object]) -> None:
        """Has ``done`` called with the future, in whatever thread, when it is done."""
        if _is_ours(future):
            # Left by an event loop that has ended, or will; the one that runs here is this actor's own.
            if any(loop is not _waiting.running_loop() for loop in list(future._way.outboxes)):
                from . import _awaiting

                _awaiting.send_beside(future)
            self._waiting.add(future)
            future._when_done(done)
            future._when_done(self._waiting.discard)
        else:
            future.add_done_callback(done)

    def read(self) -> None:
        """Reads the replies to this process that are there."""
        assert self._replies
        if self._waiting and self._replies.read_now():
            return
        self._poll.unregister(self.fd)
        self.fd = -1
        for future in list(self._waiting):  # another thread reads just now, for as long as it waits
            self._replies.help(future)


def _is_ours(future: Any) -> bool:
    from ._future import Future  # which imports a lot; somebody has, where there is a future

    return isinstance(future, Future)
