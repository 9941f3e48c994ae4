"""The way to a mailbox: what a process holds that sends to it.

A process has one channel to a mailbox, however many proxies share it; it is opened at the first send. Writing to it
needs no lock (see `_wire`). The kernel tells of the reader's end: a write raises BrokenPipeError, and `select.poll`
reports POLLERR, at once, however it ended.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import weakref
from collections.abc import Callable
from queue import Full
from typing import TYPE_CHECKING, NoReturn

from . import _ending, _wire
from ._errors import ActorError
from ._slots import SenderSlots
from ._waiting import is_ready, wait, wait_for_room

if TYPE_CHECKING:
    from ._awaiting import Outbox
    from ._lane import Lane

_channels: weakref.WeakValueDictionary[str, Channel] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def channel(mailbox: str, name: str) -> Channel:
    """This process's channel to ``mailbox``; ``name`` is for its errors."""
    found = _channels.get(mailbox)
    if found is None:
        with _opening:
            found = _channels.get(mailbox)
            if found is None:
                found = _channels[mailbox] = Channel(mailbox, name)
    return found


class Channel:
    """Sends frames to one mailbox."""

    #: For asks, see _lane.
    lane: Lane | None = None

    def __init__(self, mailbox: str, name: str) -> None:
        self.mailbox = mailbox
        self.name = name
        #: For writing without further ado; -1 where there is more to do than that.
        self.fd = -1
        #: The headers of what is written like that.
        self.headers = _wire.ITEM_HEADERS
        self.file = -1
        #: Whether what was sent last was large: then the next is likely to be, and not worth the attempt at a frame.
        self.large = False
        self.ending: _ending.Ending | None = None
        #: The owner knows more than others.
        self.find_ending: Callable[[str], _ending.Ending] = _ending.find
        #: What event loops are to send when there is room, each its own. While there is any, ``fd`` is -1.
        self.outboxes: dict[object, Outbox] = {}
        self._slots: SenderSlots | None = None
        self.is_reader = False

    def __del__(self) -> None:
        self.close()

    def close(self, _close: Callable[[int], None] = os.close) -> None:
        """Lets go of the way; the next send opens it again."""
        # At the interpreter's end __del__ comes here when the os module may be gone: a default is not.
        file, self.file, self.fd, self._slots = self.file, -1, -1, None
        if file >= 0:
            _close(file)

    def post(self, kind: int, head: bytes, obj: object, deadline: float | None = None) -> None:
        """Sends an object; waits while the mailbox is full.

        Raises what pickling raises, OSError where a large object finds no room, ActorClosed or ActorDied where nobody
        will read it, and queue.Full at the deadline. Then nothing was sent.
        """
        frame = self.pack(kind, head, obj)
        try:
            self.send(frame, deadline)
        except BaseException:
            _wire.drop(self.mailbox, frame, len(head))
            raise

    def pack(self, kind: int, head: bytes, obj: object) -> bytes:
        """Makes the frame that carries an object, stored over there if it is large; raises as `post` does."""
        self.open()
        if self.is_reader:
            kind |= _wire.OWN
        try:
            frame = _wire.pack(self.mailbox, kind, head, obj, self.large)
            self.large = frame[2] & _wire.STORED != 0
            return frame
        except FileNotFoundError:
            # In a place that somebody removed, it lives on.
            if os.path.isdir(self.mailbox) or not is_ready(self.file, 0):
                raise
        self.fail()

    def send(self, frame: bytes, deadline: float | None = None) -> None:
        """Sends a frame, as `post` does."""
        for outbox in list(self.outboxes.values()):
            if outbox.thread == threading.get_ident() and not outbox.flush(deadline):
                raise Full
        if not self.deliver(frame, deadline):
            raise Full

    def deliver(self, frame: bytes, deadline: float | None) -> bool:
        """Sends a frame; False where there was no room until the deadline."""
        self.open()
        send = self._slots.send if self._slots else Channel.send_without_slot
        return send(self, frame, deadline)

    def deliver_now(self, frame: bytes) -> bool:
        """The same without waiting."""
        self.open()
        return self._slots.try_send(self, frame) if self._slots else self.try_send(frame)

    def try_send(self, frame: bytes) -> bool:
        """Writes a frame that takes no slot; False where there is no room now."""
        self.open()
        try:
            os.write(self.file, frame)
            return True
        except BlockingIOError:
            return False
        except BrokenPipeError:
            pass
        self.fail()

    def send_without_slot(self, frame: bytes, deadline: float | None = None) -> bool:
        """Writes a frame that takes no slot; waits for room; False where there was none until the deadline."""
        while not self.try_send(frame):
            if not self.make_room(deadline):
                return False
        return True

    def make_room(self, deadline: float | None) -> bool:
        """Waits until there may be room in the FIFO; False once the deadline is past."""
        if self.is_reader:  # who makes room while it waits
            return wait(self.file, select.POLLOUT, deadline)
        return wait_for_room(self.file, select.POLLOUT, deadline, self.name)

    def lacks(self) -> tuple[int, int]:
        """What a frame has to wait for: a descriptor, and what it has to be ready for."""
        if self._slots and is_ready(self.file, select.POLLOUT):
            return self._slots.fd, select.POLLIN
        return self.file, select.POLLOUT

    def choose_way(self) -> None:
        """Lets frames be written without further ado, or not."""
        with _opening:
            self.fd = -1 if self._slots or self.outboxes or self.ending else self.file
            if self.ending:  # again: another thread may have noted the end just before
                self.fd = -1

    def open(self) -> None:
        """Opens the way, if it is not open; raises ActorClosed or ActorDied where it leads nowhere any more."""
        if self.ending:
            self.fail()
        if self.file >= 0:
            return
        with _opening:
            if self.file >= 0:
                return
            file = _opened(f"{self.mailbox}/fifo")
            if file is None:
                self.fail()
            try:
                if not stat.S_ISFIFO(os.fstat(file).st_mode):
                    raise OSError(errno.EINVAL, "not a mailbox", self.mailbox)
                slots = None if self.is_reader else SenderSlots.open(self.mailbox)
            except BaseException:
                os.close(file)
                raise
            if self.file < 0:
                self._slots, self.file = slots, file
                self.choose_way()
            else:  # a signal handler has opened it meanwhile
                os.close(file)

    def open_as_reader(self) -> None:
        """The same in the process that reads: its messages to itself can't wait for slots."""
        self.is_reader = True
        self.headers = _wire.OWN_ITEM_HEADERS
        self.close()
        self.open()

    def end(self, ending: _ending.Ending | None = None) -> None:
        """Notes that nothing goes this way any more, and why; looks for the reason where it is not given."""
        if self.ending is None:
            self.ending = ending or self.look()
        self.fd = -1  # the file stays open until nobody has the channel: another thread may be about to write

    def look(self) -> _ending.Ending:
        """Finds out how the actor ended, which has."""
        try:
            return self.find_ending(self.mailbox)
        except OSError:  # no descriptor left to look with
            return _ending.UNKNOWN

    def error(self) -> ActorError:
        """The error that says how the reader ended, which has."""
        self.end()
        assert self.ending is not None
        return self.ending.error(self.name)

    def fail(self) -> NoReturn:
        """Raises it; not while an exception is handled: its traceback is to show the caller's alone."""
        raise self.error()


def _opened(path: str) -> int | None:
    """A descriptor to write to a FIFO; None where nobody reads it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        # ENXIO: nobody has it open for reading. The path is ours, so ENOENT says the same.
        if error.errno not in (errno.ENOENT, errno.ENXIO):
            raise
        return None


def _after_fork() -> None:
    global _opening
    _opening = threading.RLock()
    for way in list(_channels.values()):
        way.close()
        way.is_reader = False
        way.__dict__.pop("lane", None)
        way.outboxes = {}
        way.find_ending = _ending.find
        way.headers = _wire.ITEM_HEADERS


os.register_at_fork(after_in_child=_after_fork)
