"""The queue underneath: a `multiprocessing` queue over a named FIFO.

Rules:

1. A mailbox is a directory; its path is its address, so it can be sent in messages. In it are the FIFO, the inbox
   (see `_inbox`), the slots of a bounded one (see `_slots`) and the payloads (see `_wire`).
2. Senders only ever write to the FIFO. Only who may receive has it open for reading, so the kernel tells senders when
   nobody is left who does.
3. One process receives at a time. The mailbox of an actor has one reader for life. Else the reader holds a ``flock``,
   which the kernel drops when it is killed; a reader that waits for a message waits with the lock in hand, so those
   behind it find what it left.
4. Where the FIFO of such a shared mailbox is full, its sender moves what is in there to the inbox, which grows. So
   `put` waits only for ``maxsize``, and a process can exit with mail unread.
5. The last process to let go of a mailbox removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import select
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import reduction, util
from multiprocessing.context import assert_spawning
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any, Generic, TypeVar

from . import _inbox, _runtime, _wire
from ._channel import Channel
from ._inbox import Inbox
from ._slots import ReaderSlots, SenderSlots
from ._waiting import deadline_in, earlier, readers, wait

T = TypeVar("T")

_READ = os.O_RDONLY | os.O_NONBLOCK
#: How often one looks again for what nothing wakes it for, in seconds.
_LOOK_AGAIN = 0.05
#: The same while all slots are there, as one may be lost during the sleep.
_LOOK_SELDOM = 1.0
_LOCK_AGAIN = 0.002
#: How long a reader may hold up those that put without waiting.
_READER_STUCK = 1.0

_mailboxes: weakref.WeakSet[Mailbox[Any]] = weakref.WeakSet()
#: Held while a FIFO is open for reading and not yet in the set: no fork comes between.
births = threading.RLock()
_heirloom = threading.local()
_packing = threading.local()


@contextlib.contextmanager
def pickled_here() -> Iterator[list[Mailbox[Any]]]:
    """The mailboxes that this thread pickles meanwhile: on its way, nobody has one."""
    found: list[Mailbox[Any]] = []
    before, _packing.found = getattr(_packing, "found", None), found
    try:
        yield found
    finally:
        _packing.found = before


class Mailbox(Queue, Generic[T]):  # type: ignore[type-arg]  # it can't be subscripted at run time
    """A queue between processes, as `multiprocessing.Queue`, that can be sent in messages and that no kill breaks::

        mailbox = Mailbox()
        mailbox.put("hello")
        mailbox.get()  # "hello"

    It has the methods, the arguments and the exceptions of `multiprocessing.Queue`. Beyond that, it may be pickled at
    any time, to any process of the same user on this machine; `put` pickles at once, in the caller, and raises what
    pickling raises; and a process that is killed while it puts or gets keeps nobody else from either.

    ``maxsize`` is the number of items, put and not yet got, from which on `put` waits; 0 for no limit. Raises
    ValueError where the system can't count that far, and OSError where it can't make another mailbox.

    It lives as long as some process has it. Items are delivered at most once, each sender's in their order.
    """

    directory: str
    # What __del__ looks at, also where it could not be made.
    fifo = -1
    slots: ReaderSlots | None = None
    _lock = -1
    _sweep_at = 0.0
    _inbox: Inbox | None

    def __init__(self, maxsize: int = 0) -> None:
        self._make(maxsize, private=False)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._private:
            if (found := getattr(_packing, "found", None)) is not None:
                found.append(self)
            return _attached, (self.directory, self._maxsize)
        assert_spawning(self)
        return _inherited, (self.directory, self._maxsize, *map(reduction.DupFd, self._descriptors()))

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Puts an item; waits, for at most ``timeout`` seconds, while the mailbox is full. Raises `queue.Full`."""
        self._check_open()
        self._used = True
        self._channel.post(_wire.ITEM, b"", obj, deadline_in(timeout if block else 0))

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Returns the next item; waits for one, for at most ``timeout`` seconds. Raises `queue.Empty`."""
        self._check_open()
        deadline = deadline_in(timeout if block else 0)
        with self._sole_reader(deadline) as inbox:
            while (body := inbox.take()) is None:
                if not inbox.pull() and not self._wait(deadline):
                    raise Empty
            try:
                # What is not claimed yet, if this process is killed now, the next reader finds and removes.
                payload = _wire.claim(self.directory, body) if inbox.kind & _wire.STORED else None
            finally:
                inbox.finish()
                if self.slots:
                    self.slots.give()
        item: T = pickle.loads(body) if payload is None else _wire.read(payload)
        return item

    def put_nowait(self, obj: T) -> None:
        return self.put(obj, False)

    def get_nowait(self) -> T:
        return self.get(False)

    def qsize(self) -> int:
        """How many items are waiting; by the time that it is known it may have changed."""
        if self.slots:
            return self.slots.taken()
        try:
            with self._sole_reader(time.monotonic() + _LOOK_AGAIN) as inbox:
                while inbox.pull():
                    pass
                return len(inbox)
        except Empty:  # somebody holds the lock: waiting for an item, as there is none
            return 0

    def empty(self) -> bool:
        """Whether no item is waiting. Raises OSError, as multiprocessing's, once what was put to is closed."""
        if self._closed and self._used:
            raise OSError(f"{self!r} is closed")
        return self.qsize() == 0

    def full(self) -> bool:
        return self.slots is not None and self.slots.taken() >= self._maxsize

    def close(self) -> None:
        """This process puts and gets no more. What it has put stays for the others."""
        self._closed = True

    def join_thread(self) -> None:
        """Returns at once: what was put is not this process's any more. There is no thread."""
        assert self._closed, f"{self!r} is not closed"

    def cancel_join_thread(self) -> None:
        """Does nothing, for the same reason."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.path.basename(self.directory)}{' closed' if self._closed else ''}>"

    # What follows is between the mailbox and the other modules.

    @classmethod
    def for_actor(cls, maxsize: int) -> Mailbox[Any]:
        """Makes a mailbox that one process reads for life: the one that `bequeath` starts."""
        mailbox = cls.__new__(cls)
        mailbox._make(maxsize, private=True)
        return mailbox

    def bequeath(self, start: Callable[[], object], keep: bool = False) -> None:
        """The process that this thread starts by ``start()`` becomes the reader.

        This one is none any more, or is to ``keep`` the mailbox open, without reading, for when that one dies.
        """
        _heirloom.mailbox = self
        try:
            start()
        finally:
            _heirloom.mailbox = None
            if not keep:
                self.stop_reading()

    def open_inbox(self) -> Inbox:
        """What was received, for the one process that reads."""
        if self._inbox is None:
            self._inbox = Inbox(f"{self.directory}/inbox", self.fifo)
        return self._inbox

    def stop_reading(self, _close: Callable[[int], None] = os.close) -> None:
        """Lets go of the FIFO; if nobody else has it, its senders learn that."""
        fifo, self.fifo = self.fifo, -1
        if fifo >= 0:
            _close(fifo)
        if self.slots:
            self.slots.close()

    def remove(self) -> None:
        """Removes a mailbox that nobody reads any more."""
        # By one step: while there is a mailbox without a note, its reader was killed.
        gone = f"{self.directory}.gone"
        try:
            os.rename(self.directory, gone)
        except OSError:
            gone = self.directory
        _runtime.remove(gone)

    def repair(self) -> None:
        """Puts right what killed senders left: for a reader to whom nothing came for a while."""
        inbox = self.open_inbox()
        if self.slots and self.slots.taken():
            self.slots.repair(lambda: not inbox.pull())
        if (now := time.monotonic()) >= self._sweep_at:
            self._sweep_at = now + _LOOK_SELDOM
            _wire.sweep(self.directory, inbox.received)

    def _make(self, maxsize: int, private: bool) -> None:
        self.directory = _runtime.home().new_mailbox()
        try:
            os.mkfifo(f"{self.directory}/fifo", 0o600)
            slots = ReaderSlots.make(self.directory, maxsize) if maxsize > 0 else None
            with births:
                self._attach(maxsize, private, os.open(f"{self.directory}/fifo", _READ), slots)
            _inbox.create(f"{self.directory}/inbox", self.fifo)
        except BaseException:
            for name in ("fifo", "slots", "inbox"):  # a look at what is there would take a descriptor
                _runtime.unlink(f"{self.directory}/{name}")
            os.rmdir(self.directory)
            raise

    def _attach(self, maxsize: int, private: bool, fifo: int, slots: ReaderSlots | None) -> None:
        self._maxsize = maxsize
        self._private = private
        self._closed = self._used = False
        self.fifo = fifo
        self.slots = slots
        self._inbox = None
        self._reading = threading.Lock()
        _mailboxes.add(self)
        if private:  # its owner removes it, and has a channel as all its senders do
            return
        _runtime.home(self.directory).share()
        self._lease = _runtime.Lease(self.directory)
        self._lease.share()
        self._channel = _OwnChannel(self)
        self._channel.open()
        self._release_at_exit()
        # A process of multiprocessing forgets the finalizers that it inherits.
        util.register_after_fork(self, Mailbox._release_at_exit)

    def _descriptors(self) -> list[int]:
        return [self.fifo, self.slots.fd] if self.slots else [self.fifo]

    def _after_fork(self) -> None:
        """In the child: what the parent's descriptors stand for is the parent's."""
        if self._private and getattr(_heirloom, "mailbox", None) is not self:
            self.stop_reading()
            return
        self._reading = threading.Lock()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        with contextlib.suppress(OSError):  # it is gone, or there is no descriptor left
            if self.slots:
                self.slots = ReaderSlots(self.directory, self._maxsize)
            if not self._private:
                self._channel.renew_slots()
        if not self._private:
            self._release_at_exit()

    def _release_at_exit(self) -> None:
        util.Finalize(self, self._lease.release, exitpriority=2)

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        # At the interpreter's end the os module may be gone: a default is not.
        self.stop_reading()
        if self._lock >= 0:
            _close(self._lock)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self!r} is closed")

    def _wait(self, deadline: float | None) -> bool:
        """Waits until there may be something to read; False once the deadline is past."""
        if self.slots is None:
            return wait(self.fifo, select.POLLIN, deadline)
        # Also where none is taken: a sender that is killed takes one with it while this one sleeps.
        soon = time.monotonic() + (_LOOK_AGAIN if self.slots.taken() else _LOOK_SELDOM)
        until = earlier(deadline, soon)
        if wait(self.fifo, select.POLLIN, until):
            return True
        self.repair()  # at the deadline too: some only ever wait for less than it takes to look again
        return until == soon

    @contextlib.contextmanager
    def _sole_reader(self, deadline: float | None) -> Iterator[Inbox]:
        """The right to read, and the inbox as the last reader left it. Raises Empty at the deadline."""
        if not self._reading.acquire(timeout=-1 if deadline is None else max(0, deadline - time.monotonic())):
            raise Empty
        try:
            if self._lock < 0:
                self._lock = os.open(f"/proc/self/fd/{self.fifo}", _READ)
            try:
                while True:
                    try:
                        sleep = deadline is None and not readers
                        fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if sleep else fcntl.LOCK_NB))
                        break
                    except BlockingIOError:
                        if deadline is not None and time.monotonic() >= deadline:
                            raise Empty from None
                        wait(None, 0, time.monotonic() + _LOCK_AGAIN)
                inbox = self.open_inbox()
                if (lost := inbox.recover()) is not None:
                    _wire.drop(self.directory, _wire.frame(inbox.kind, b"", lost))
                yield inbox
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        finally:
            self._reading.release()


class _OwnChannel(Channel):
    """To a mailbox that its sender could read as well."""

    def __init__(self, mailbox: Mailbox[Any]) -> None:
        super().__init__(mailbox.directory, repr(mailbox))
        self._owner = weakref.ref(mailbox)

    def renew_slots(self) -> None:
        """For a forked child, which would share its parent's lock."""
        if self._slots:
            self._slots = SenderSlots.open(self.mailbox)

    def make_room(self, deadline: float | None) -> bool:
        owner = self._owner()
        assert owner is not None
        now = time.monotonic()
        try:
            with owner._sole_reader(now) as inbox:
                inbox.pull()
            return True
        except Empty:  # another is reading, which makes room too
            wait(self.file, select.POLLOUT, now + _LOOK_AGAIN)
            # That takes but a moment, unless it was stopped. The mailbox is not full, so the deadline can wait for it.
            return deadline is None or now < deadline + _READER_STUCK


def _attached(directory: str, maxsize: int) -> Mailbox[Any]:
    mailbox: Mailbox[Any] = Mailbox.__new__(Mailbox)
    mailbox.directory = directory
    with births:
        slots = ReaderSlots(directory, maxsize) if maxsize > 0 else None
        mailbox._attach(maxsize, False, os.open(f"{directory}/fifo", _READ), slots)
    return mailbox


def _inherited(directory: str, maxsize: int, *descriptors: Any) -> Mailbox[Any]:
    mailbox: Mailbox[Any] = Mailbox.__new__(Mailbox)
    mailbox.directory = directory
    fds = [descriptor.detach() for descriptor in descriptors]
    for fd in fds:
        os.set_inheritable(fd, False)
    # What came has kept the slots alive on the way. This is opened anew, as a flock is shared with it.
    slots = ReaderSlots(directory, maxsize) if maxsize > 0 else None
    for fd in fds[1:]:
        os.close(fd)
    with births:
        mailbox._attach(maxsize, True, fds[0], slots)
    return mailbox


def _after_fork() -> None:
    births.release()
    for mailbox in list(_mailboxes):
        mailbox._after_fork()
    _heirloom.mailbox = _packing.found = None


os.register_at_fork(before=births.acquire, after_in_parent=births.release, after_in_child=_after_fork)
