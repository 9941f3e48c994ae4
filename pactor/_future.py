"""Asks: their futures, and how the replies come back.

Rules:

1. A process that asks has a mailbox for its replies. There is no thread that reads it: the thread that waits for a
   reply does, and hands out those of the others on its way.
2. One thread reads at a time, the leader. The others wait for their own future; when the leader has its reply, it
   wakes one of them to lead.
3. Callbacks, and `concurrent.futures.wait`, want replies noticed while nobody waits in `Future.result`. A helper
   thread leads then, started when first needed and gone when no such future is left.
4. The leader watches the way to every actor that owes a reply. Where the kernel says that the actor is gone, it first
   reads what the actor still sent, and then ends what is owed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import itertools
import os
import pickle
import select
import struct
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import util
from typing import Any, TypeVar

from . import _runtime, _waiting, _wire
from ._channel import Channel
from ._errors import RemoteError, RemoteTraceback

R = TypeVar("R")

_reply_head = _wire.REPLY_HEAD.unpack_from
_ask_header = struct.Struct("<HBQH").pack  # a frame's header and ASK_HEAD

_REPLIES = {kind | stored for kind in (_wire.VALUE, _wire.ERROR) for stored in (0, _wire.STORED)}
# As in concurrent.futures._base, whose states have no public name.
_PENDING, _FINISHED = "PENDING", "FINISHED"


class Future(concurrent.futures.Future[R]):
    """The reply to an ask, some time: a `concurrent.futures.Future`.

    `result`, `exception`, callbacks, `concurrent.futures.wait` and ``as_completed`` do what they do there. `cancel`
    gives up waiting; the actor executes the message all the same, and its reply is dropped.
    """

    # Whoever takes the future out of Replies.pending, and only he, decides it. So that needs no lock, and the
    # condition, which costs as much as all the rest, is made when somebody wants to wait for it. First the state is
    # set, then a condition that is there notified; he who waits makes the condition first and then looks at the state.

    def __init__(self, replies: Replies, number: int, way: Channel) -> None:
        self._state = _PENDING
        self._result = None
        self._exception = None
        self._waiters = _Waiters(self)
        self._done_callbacks: list[Callable[[concurrent.futures.Future[R]], object]] = []
        self._replies = replies
        self._number = number
        self._way = way

    @functools.cached_property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        condition: threading.Condition = self.__dict__.setdefault("_condition", threading.Condition())
        return condition

    def result(self, timeout: float | None = None) -> R:
        """Waits for the reply and returns it; raises what the method raised.

        ``timeout`` is in seconds; None waits as long as the actor lives. Raises ActorClosed or ActorDied where it
        ended first, `concurrent.futures.TimeoutError` and ``CancelledError``.
        """
        if self._state == _PENDING:
            self._replies.wait(self, timeout)
        if self._state == _FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the reply; returns what the method raised, or None."""
        if self._state == _PENDING:
            self._replies.wait(self, timeout)
        return super().exception(0)

    def done(self) -> bool:
        """Whether the reply is there, or will not come."""
        if self._state == _PENDING:
            self._replies.read_now()
        return super().done()

    def cancel(self) -> bool:
        if self._replies.forget(self._number):
            super().cancel()
            self.set_running_or_notify_cancel()
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[R]], object]) -> None:
        super().add_done_callback(fn)
        self._replies.help(self)

    def _finish(self, value: object, error: BaseException | None) -> None:
        """Decides the future: for him who took it out of the pending."""
        self._result, self._exception = value, error  # type: ignore[assignment]
        self._state = _FINISHED
        if "_condition" in self.__dict__:
            with self._condition:
                for waiter in self._waiters:
                    (waiter.add_exception if error else waiter.add_result)(self)
                self._condition.notify_all()
            self._invoke_callbacks()  # type: ignore[attr-defined]


class _Waiters(list[Any]):
    """What `concurrent.futures.wait` appends to, to be told when the future is done."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = weakref.ref(future)

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        future = self._future()
        assert future is not None
        future._replies.help(future)


class Replies:
    """The replies to a process: where they arrive, and the futures that wait for them."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox
        self._address = mailbox.encode()
        os.mkfifo(f"{mailbox}/fifo", 0o600)
        self.fd = os.open(f"{mailbox}/fifo", os.O_RDONLY | os.O_NONBLOCK)
        # One writer for as long as there is a reader, or else poll reports the writers' end.
        self._writer = os.open(f"{mailbox}/fifo", os.O_WRONLY | os.O_NONBLOCK)
        self._capacity = _wire.capacity(self.fd)
        self._ask_size = _wire.HEADER_SIZE + _wire.ASK_HEAD.size + len(self._address)
        self._numbers = itertools.count()
        self._pending: dict[int, Future[Any]] = {}
        self._leading = threading.Lock()
        self._followers: dict[object, Future[Any]] = {}
        self._helped: set[int] = set()
        self._helper: threading.Thread | None = None
        self._helping = threading.Lock()
        self._patience = _waiting.Patience()
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._watched: dict[int, weakref.ref[Channel]] = {}

    def close(self) -> None:
        """In a forked child: the replies are the parent's, and so are the futures."""
        os.close(self.fd)
        os.close(self._writer)
        self.fd = -1

    def ask(self, way: Channel, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        number = next(self._numbers)
        if not number % 64:
            self.read_now()  # asked and never looked at, the replies must not pile up
        future = self._pending[number] = Future(self, number, way)
        message = (name, args, kwargs)
        try:
            body = pickle.dumps(message, 5)
            size = self._ask_size + len(body)
            if size > _wire.MAX_FRAME or way.headers is not _wire.ITEM_HEADERS:
                raise ValueError
            os.write(way.fd, _ask_header(size, _wire.ASK, number, len(self._address)) + self._address + body)
        except Exception:  # as in Proxy's methods: there is more to do
            try:
                way.post(_wire.ASK, _wire.ASK_HEAD.pack(number, len(self._address)) + self._address, message)
            except BaseException as error:
                self.forget(number)
                error.__context__ = None
                raise
        watched = self._watched.get(way.file)
        if watched is None or watched() is not way:
            self._watched[way.file] = weakref.ref(way)
            self._poll.register(way.file, 0)  # only errors, which are always reported
            self._nudge()
        return future

    def forget(self, number: int) -> bool:
        """Drops an ask, and its reply when it comes; returns whether it was still open."""
        self._helped.discard(number)
        if not self._helped and self._helper:
            self._nudge()
        return self._pending.pop(number, None) is not None

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Waits until the future is done, or for ``timeout`` seconds."""
        if self.fd < 0:
            raise RuntimeError("this process was forked from the one that asked, and the reply goes there")
        deadline = _waiting.deadline_in(timeout)
        while True:
            if self.claim():
                try:
                    self._lead(lambda: future._state != _PENDING, deadline)
                finally:
                    self.release()
                return
            with future._condition:
                following = object()
                self._followers[following] = future
                try:
                    # The leader lets go and then wakes its followers, for which it needs their conditions: so either
                    # it is seen here that it let go, or it wakes this one.
                    if self._leading.locked() and future._state == _PENDING:
                        future._condition.wait(None if deadline is None else max(0, deadline - time.monotonic()))
                finally:
                    del self._followers[following]
            if future._state != _PENDING or (deadline is not None and time.monotonic() >= deadline):
                return

    def read_now(self) -> None:
        """Hands out what has arrived; waits for nothing."""
        if self.fd >= 0 and self.claim():
            try:
                self._lead(lambda: False, 0)
            finally:
                self.release()

    def help(self, future: Future[Any]) -> None:
        """Has the future resolved also while nobody waits for it in here."""
        with self._helping:
            if future._number in self._pending:
                self._helped.add(future._number)
                if self._helper is None:
                    self._helper = threading.Thread(target=self._help, name="pactor replies", daemon=True)
                    self._helper.start()

    # A reader for whoever waits, see _waiting.

    def claim(self) -> bool:
        return self._leading.acquire(blocking=False)

    def release(self) -> None:
        self._leading.release()
        # All of them: one alone may have its reply by now, or no time left, and not lead.
        for future in list(self._followers.values()):
            with future._condition:
                future._condition.notify_all()

    def read(self) -> bool:
        try:
            data = os.read(self.fd, self._capacity)
        except BlockingIOError:
            return False
        for kind, body in _wire.split(data):
            if kind in _REPLIES:
                self._resolve(kind, body)
        return True

    def _lead(self, done: Callable[[], bool], deadline: float | None) -> None:
        others = {}
        if len(_waiting.readers) > 1:
            others = {reader.fd: reader for reader in _waiting.readers if reader is not self and reader.claim()}
            for fd in others:
                self._poll.register(fd, select.POLLIN)
        try:
            while not done():
                for fd, _ in self._patience.poll(self._poll, deadline):
                    if fd == self.fd:
                        self.read()
                    elif fd in others:
                        others[fd].read()
                    else:
                        self._bury(fd)
                if deadline is not None and time.monotonic() >= deadline:
                    return
        finally:
            for fd, reader in others.items():
                self._poll.unregister(fd)
                reader.release()

    def _help(self) -> None:
        while True:
            self._leading.acquire()
            try:
                self._lead(lambda: not self._helped, None)
            finally:
                self.release()
            with self._helping:
                if not self._helped:
                    self._helper = None
                    return

    def _nudge(self) -> None:
        """Has a leader that is waiting look again."""
        if self._leading.locked():
            with contextlib.suppress(BlockingIOError):  # full: it will wake
                os.write(self._writer, _wire.frame(_wire.NUDGE, b"", b""))

    def _bury(self, fd: int) -> None:
        """Ends what an actor owes that is gone."""
        self._poll.unregister(fd)
        way = self._watched.pop(fd)()
        if way is None or way.file != fd:
            return  # the descriptor is another's by now
        while self.read():  # what it sent before it ended
            pass
        way.end()
        for number, future in list(self._pending.items()):
            if future._way is way:
                if self.forget(number):
                    future._finish(None, way.error())

    def _resolve(self, kind: int, data: bytes) -> None:
        (number,) = _reply_head(data)
        body = data[_wire.REPLY_HEAD.size :]
        future = self._pending.pop(number, None)
        if future is None:
            if kind & _wire.STORED:
                _runtime.unlink(f"{self.mailbox}/{body.decode()}")
            return
        value, error = None, None
        try:
            value = _wire.unpack(self.mailbox, kind, body)
            if kind & _wire.KIND == _wire.ERROR:
                error = _revived(*value)
        except Exception as failure:
            error = RemoteError(type(failure).__name__, f"the reply can't be loaded here: {failure}")
            error.__cause__ = failure
        self._helped.discard(number)
        future._finish(value, error)


_replies: Replies | None = None


def replies(neighbour: str) -> Replies:
    """This process's replies: made when it first asks, beside ``neighbour`` if it has no place of its own yet."""
    global _replies
    if _replies is not None:
        return _replies
    with _making:
        if _replies is None:
            made = Replies(_runtime.new_replies(neighbour))
            util.Finalize(None, _runtime.remove, (made.mailbox,), exitpriority=3)
            _waiting.readers.append(made)
            _replies = made
    return _replies


_making = threading.Lock()


def _after_fork() -> None:
    global _replies, _making
    _making = threading.Lock()
    if _replies is not None:
        _replies.close()
        _replies = None


os.register_at_fork(after_in_child=_after_fork)


def _revived(pickled: bytes | None, type_name: str, message: str, traceback: str) -> BaseException:
    """The exception of another process; RemoteError where it can't come here."""
    error: BaseException = RemoteError(type_name, message, traceback)
    if pickled is not None:
        with contextlib.suppress(Exception):
            loaded = pickle.loads(pickled)
            if isinstance(loaded, BaseException):
                error = loaded
    error.__cause__ = RemoteTraceback(traceback)
    return error
