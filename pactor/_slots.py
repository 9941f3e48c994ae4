"""The bound of a mailbox: a slot a message, so that all senders together wait when ``maxsize`` are queued.

Rules:

1. The slots are bytes in a FIFO beside the mailbox's own. A sender takes one before it writes a frame, the reader
   puts one back for each frame that it hands out. The kernel does the counting and the waking; there is no semaphore
   that a killed process could keep.
2. A sender that is killed between its slot and its frame takes the slot with it. So it holds a shared ``flock`` for
   that moment, which the kernel drops: a reader that has nothing left to read, and the exclusive lock, knows that
   every slot that is missing is lost, and puts it back.
3. Only a reader has the FIFO open for writing: where it ends, nobody waits for a slot any more.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._files import unread
from ._waiting import is_ready, wait_for_room

if TYPE_CHECKING:
    from ._channel import Channel


class SenderSlots:
    """The sender's side."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lock = threading.RLock()  # the flock is one for all threads

    @classmethod
    def open(cls, mailbox: str) -> SenderSlots | None:
        """The slots of a mailbox; None where it has no bound."""
        try:
            return cls(os.open(f"{mailbox}/slots", os.O_RDONLY | os.O_NONBLOCK))
        except FileNotFoundError:
            return None

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        _close(self.fd)

    def send(self, channel: Channel, frame: bytes, deadline: float | None) -> bool:
        """Sends with a slot; False where there was none until the deadline."""
        while True:
            with self._lock:
                fcntl.flock(self.fd, fcntl.LOCK_SH)
                try:
                    if self._take():
                        # Whoever gives up now loses the slot until the reader misses it.
                        return channel.send_without_slot(frame, deadline)
                finally:
                    fcntl.flock(self.fd, fcntl.LOCK_UN)
            if not wait_for_room(self.fd, select.POLLIN, deadline, channel.name):
                return False

    def try_send(self, channel: Channel, frame: bytes) -> bool:
        """The same without waiting; False where there was no slot, or no room."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH)
            try:
                # A slot that is taken and not used is lost for a while, so there has to be room for the frame first.
                return is_ready(channel.file, select.POLLOUT) and self._take() and channel.try_send(frame)
            finally:
                fcntl.flock(self.fd, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    def _take(self) -> bool:
        try:
            # Nothing, not even a slot: the reader is gone, and the write will say so.
            os.read(self.fd, 1)
            return True
        except BlockingIOError:
            return False


class ReaderSlots:
    """The reader's side."""

    fd = -1

    def __init__(self, mailbox: str, maxsize: int) -> None:
        self.maxsize = maxsize
        self.fd = os.open(f"{mailbox}/slots", os.O_RDWR | os.O_NONBLOCK)

    @classmethod
    def make(cls, mailbox: str, maxsize: int) -> ReaderSlots:
        """Makes the slots of a new mailbox. Raises ValueError where the system can't count that far."""
        os.mkfifo(f"{mailbox}/slots", 0o600)
        slots = cls(mailbox, maxsize)
        try:
            if maxsize > (1 << 31) - mmap.PAGESIZE:  # fcntl cuts it to what an int takes
                raise OverflowError
            # A pipe counts pages, and the first one until its last byte is read.
            room = maxsize + mmap.PAGESIZE - 1
            if hasattr(fcntl, "F_SETPIPE_SZ") and room > fcntl.fcntl(slots.fd, fcntl.F_GETPIPE_SZ):
                fcntl.fcntl(slots.fd, fcntl.F_SETPIPE_SZ, room)
            slots._put(maxsize)
        except (OSError, OverflowError) as error:
            raise ValueError(f"maxsize is too large for this system: {maxsize}") from error
        return slots

    def close(self, _close: Callable[[int], None] = os.close) -> None:
        if self.fd >= 0:
            _close(self.fd)
            self.fd = -1

    __del__ = close

    def give(self) -> None:
        """Puts the slot of a frame back that was handed out; rubbish had none."""
        if self.taken() > 0:
            os.write(self.fd, b"\0")

    def taken(self) -> int:
        """How many are taken; where nothing is queued, by senders that are just sending, or were killed."""
        return self.maxsize - unread(self.fd)

    def repair(self, is_empty: Callable[[], bool]) -> None:
        """Puts back what killed senders took with them, if nobody is sending just now and nothing is queued."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            if is_empty():
                self._put(self.taken())
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def _put(self, count: int) -> None:
        if count:
            written = os.write(self.fd, bytes(count))
            if written < count:
                raise OSError(f"no room for {count} slots")
