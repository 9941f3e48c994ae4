"""Asks and sends in the event loops of asyncio: nothing here keeps a loop waiting, and there is no thread.

Rules:

1. A loop in which replies are awaited has the descriptor that tells of them among those that it watches (see
   `Replies.fileno`). Whoever reads them, wakes the loops of the others.
2. What finds no room in a mailbox is sent by the loop when there is. Until then, all that is sent in its thread to
   that mailbox goes behind it.
3. What a loop leaves behind that has ended, an ask that nobody awaited, is sent by whoever waits for its reply.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import select
import threading
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

from . import _wire
from ._errors import ActorError

if TYPE_CHECKING:
    from ._channel import Channel
    from ._future import Future
    from ._replies import Replies

#: When a loop looks again whether it is still another thread that reads, in seconds.
_LOOK_AGAIN = 0.02


def wait(future: Future[Any]) -> Generator[Any, None, None]:
    """Waits in the running event loop until the future is done."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "a reply is awaited in an event loop of asyncio; elsewhere wait for its result() in a thread"
        ) from None
    waiter: asyncio.Future[None] = loop.create_future()
    with _reading(loop, future._replies):
        future._when_done(functools.partial(_wake, loop, threading.get_ident(), waiter))
        try:
            yield from waiter.__await__()
        except asyncio.CancelledError:
            future.cancel()
            raise
    if future.cancelled():  # by somebody else
        raise asyncio.CancelledError


def _wake(loop: asyncio.AbstractEventLoop, thread: int, waiter: asyncio.Future[None], _: object) -> None:
    if threading.get_ident() == thread:
        _done(waiter)
    else:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_done, waiter)


def _done(waiter: asyncio.Future[None], error: BaseException | None = None) -> None:
    if not waiter.done():
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


class _Reading:
    """One loop's part in reading the replies."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self._awaited = 0
        self._watches = False

    def __enter__(self) -> None:
        self._awaited += 1
        if not self._watches:
            self._watch(asyncio.get_running_loop())

    def __exit__(self, *args: object) -> None:
        # The next await is likely to be soon: the loop goes on watching until there is something that nobody awaits.
        self._awaited -= 1

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watches = True
        loop.add_reader(self.replies.fileno(), self._read)

    def _read(self) -> None:
        if self._awaited and self.replies.read_now():
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.replies.fileno())
        self._watches = False
        if self._awaited:  # it would only watch how another thread reads
            loop.call_later(_LOOK_AGAIN, self._watch, loop)


_readings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reading] = weakref.WeakKeyDictionary()


def _reading(loop: asyncio.AbstractEventLoop, replies: Replies) -> _Reading:
    reading = _readings.get(loop)
    if reading is None:
        reading = _readings[loop] = _Reading(replies)
    return reading


class _Wanted(Protocol):
    def cancelled(self) -> bool: ...


class Outbox:
    """What is to be sent one way by the event loop of one thread, when there is room."""

    def __init__(self, way: Channel) -> None:
        self.loop = asyncio.get_running_loop()
        self._way = way
        self._thread = threading.get_ident()
        self._flushing = threading.RLock()
        self._entries: collections.deque[_Entry] = collections.deque()
        self._lacks = _NOTHING
        way.outboxes[self._thread] = self
        way.choose_way()

    def add(self, entry: _Entry) -> None:
        """Has a frame sent behind those that are here."""
        self._entries.append(entry)
        loop = asyncio.get_running_loop()
        if loop is not self.loop:  # that one has ended
            with contextlib.suppress(RuntimeError):
                self._watch(_NOTHING)
            self.loop, self._lacks = loop, _NOTHING
        self._watch(self._way.lacks())

    def flush(self, deadline: float | None) -> bool:
        """Sends what is here; False where there was no room until the deadline."""
        if not self._flushing.acquire(blocking=deadline != 0):
            return False
        try:
            while self._entries:
                # While it waits, callbacks of replies may come here again.
                entry = self._entries.popleft()
                try:
                    sent = entry.send(self._way, deadline)
                except BaseException:
                    self._entries.appendleft(entry)
                    raise
                if not sent:
                    self._entries.appendleft(entry)
                    return False
        finally:
            self._flushing.release()
        if self._way.outboxes.get(self._thread) is self:
            del self._way.outboxes[self._thread]
            self._way.choose_way()
        return True

    def _go_on(self) -> None:
        self.flush(0)
        self._watch(self._way.lacks() if self._entries else _NOTHING)

    def _watch(self, lacks: tuple[int, int]) -> None:
        """Has the loop go on when there may be room."""
        if lacks != self._lacks:
            fd, event = self._lacks
            if fd >= 0:
                (self.loop.remove_reader if event == select.POLLIN else self.loop.remove_writer)(fd)
            self._lacks = fd, event = lacks
            if fd >= 0:
                (self.loop.add_reader if event == select.POLLIN else self.loop.add_writer)(fd, self._go_on)


#: What an outbox lacks that is empty.
_NOTHING = (-1, 0)


class _Entry:
    """A frame that waits for room, and who wants to know that it is sent."""

    def __init__(self, frame: bytes, head: int, wanted: _Wanted, sent: Callable[[Exception | None], None]) -> None:
        self._frame = frame
        self._head = head
        self._wanted = wanted
        self._sent = sent

    def send(self, way: Channel, deadline: float | None) -> bool:
        """Sends it, if it is still wanted; False where there was no room until the deadline."""
        error = None
        if self._wanted.cancelled():
            _wire.drop(way.mailbox, self._frame, self._head)
        else:
            try:
                if not (way.deliver_now(self._frame) if deadline == 0 else way.deliver(self._frame, deadline)):
                    return False
            except (ActorError, OSError) as failure:
                _wire.drop(way.mailbox, self._frame, self._head)
                error = failure
        self._sent(error)
        return True


async def tell(way: Channel, message: tuple[Any, ...]) -> None:
    """Sends a message; waits for room."""
    frame = way.pack(_wire.ITEM, b"", message)
    if not _deliver_now(way, frame, 0):
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _outbox(way).add(_Entry(frame, 0, sent, functools.partial(_done, sent)))
        await sent


def ask(way: Channel, head: bytes, message: tuple[Any, ...], future: Future[Any]) -> None:
    """Sends an ask, at once or when there is room."""

    def sent(error: BaseException | None) -> None:
        if error is not None:
            future._replies.finish(future, None, error)

    frame = way.pack(_wire.ASK, head, message)
    if not _deliver_now(way, frame, len(head)):
        _outbox(way).add(_Entry(frame, len(head), future, sent))


def _deliver_now(way: Channel, frame: bytes, head: int) -> bool:
    try:
        return threading.get_ident() not in way.outboxes and way.deliver_now(frame)
    except BaseException:
        _wire.drop(way.mailbox, frame, head)
        raise


def _outbox(way: Channel) -> Outbox:
    return way.outboxes.get(threading.get_ident()) or Outbox(way)


def send_stranded(way: Channel, deadline: float | None, running: bool = True) -> None:
    """Sends what event loops have left behind, or, if they are ``running``, are still to send."""
    for outbox in list(way.outboxes.values()):
        if running or not outbox.loop.is_running():
            outbox.flush(deadline)


os.register_at_fork(after_in_child=_readings.clear)
