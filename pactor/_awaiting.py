"""Asks and sends in the event loops of asyncio: nothing here keeps a loop waiting, and awaiting needs no thread.

Rules:

1. A loop in which replies are awaited has the descriptor that tells of them among those that it watches (see
   `Replies.fileno`). Whoever reads them, wakes the loops of the others.
2. What finds no room in a mailbox is sent by the loop when there is. Until then, all that is sent in its thread to
   that mailbox goes behind it.
3. While a loop runs, it alone sends what is in its outboxes. What a loop that was stopped, or has ended, leaves there,
   an ask that it did not await, is sent by whoever waits for its reply; for a callback, a thread does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from . import _current, _wire
from ._errors import ActorError
from ._future import PENDING
from ._log import log

if TYPE_CHECKING:
    from ._channel import Channel
    from ._future import Future
    from ._replies import Replies

#: When a loop looks again whether it is still another thread that reads, in seconds.
_LOOK_AGAIN = 0.02
#: For so many turns of its loop an actor that tells itself more than there is room for lets its driver make some.
_TURNS = 100


def wait(future: Future[Any]) -> Generator[Any, None, None]:
    """Waits in the running event loop until the future is done."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "a reply is awaited in an event loop of asyncio; elsewhere wait for its result() in a thread"
        ) from None
    with _reading(loop, future._replies) as reading:
        waiter: asyncio.Future[None] = loop.create_future()
        future._when_done(lambda _: reading.settle(waiter))
        _adopt(loop, future, waiter)
        try:
            yield from waiter.__await__()
        except asyncio.CancelledError:
            future.cancel()
            raise
    if future.cancelled():  # by somebody else
        raise asyncio.CancelledError


def _settle(waiter: asyncio.Future[None], error: BaseException | None = None) -> None:
    """Ends the wait for a future of asyncio. From any thread, any signal handler, also when its loop has ended."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        waiter.get_loop().call_soon_threadsafe(_done, waiter, error)


def _done(waiter: asyncio.Future[None], error: BaseException | None) -> None:
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
        self._reader = 0  # the loop's thread while it reads

    def __enter__(self) -> _Reading:
        if not self._watches:
            self._watch(asyncio.get_running_loop())
        self._awaited += 1
        return self

    def __exit__(self, *args: object) -> None:
        # The next await is likely to be soon: the loop goes on watching until there is something that nobody awaits.
        self._awaited -= 1

    def settle(self, waiter: asyncio.Future[None]) -> None:
        """Ends a wait, as `_settle` does: at once where it is the loop that reads, which need not be woken then."""
        if self._reader == threading.get_ident():
            _done(waiter, None)
        else:
            _settle(waiter)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self.replies.fileno(), self._read)
        self._watches = True

    def _read(self) -> None:
        if self._awaited and self._read_now():
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.replies.fileno())
        self._watches = False
        if self._awaited:  # it would only watch how another thread reads
            loop.call_later(_LOOK_AGAIN, self._watch_again, loop)

    def _read_now(self) -> bool:
        self._reader = threading.get_ident()
        try:
            return self.replies.read_now()
        finally:
            self._reader = 0

    def _watch_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._awaited and not self._watches:
            self.replies.replace_leader()
            self._watch(loop)


_readings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Reading] = weakref.WeakKeyDictionary()


def _reading(loop: asyncio.AbstractEventLoop, replies: Replies) -> _Reading:
    reading = _readings.get(loop)
    if reading is None or reading.replies is not replies:
        reading = _readings[loop] = _Reading(replies)
    return reading


class _Entry:
    """A frame that waits for room, ``wanted`` by a future, and what is to be called when it is sent, or can't be."""

    def __init__(self, frame: bytes, head: int, wanted: Any, sent: Callable[[Exception | None], None]) -> None:
        self.frame = frame
        self.head = head
        self.wanted = wanted
        self.sent = sent


class Outbox:
    """What one event loop is to send one way, when there is room.

    Others leave it alone while the loop runs. What a loop leaves behind, whoever waits for it sends.
    """

    def __init__(self, way: Channel) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self._way = way
        self._flushing = threading.RLock()
        self._entries: collections.deque[_Entry] = collections.deque()
        self._unsent: set[Any] = set()  # what the entries are wanted by, also of one that is just being sent
        self._lacks = _NOTHING
        self._beside: collections.deque[Any] = collections.deque()  # whose asks a thread sends once the loop has ended
        self._sending = threading.Lock()  # held by that thread
        way.outboxes[self.loop] = self
        way.choose_way()

    def add(self, entry: _Entry) -> None:
        """Has the loop send a frame behind those that are here."""
        self._unsent.add(entry.wanted)
        self._entries.append(entry)
        self._watch(self._way.lacks())

    def holds(self, future: object) -> bool:
        """Whether the future's ask is not sent yet."""
        return future in self._unsent

    def send_beside(self, future: Any) -> None:
        """Has a thread send a future's ask, once the loop does not run."""
        self._beside.append(future)
        if not self._sending.locked():
            threading.Thread(target=self._send_beside, name="pactor sender", daemon=True).start()

    def _send_beside(self) -> None:
        while self._beside and self._sending.acquire(blocking=False):
            try:
                while self._beside:
                    future = self._beside[0]
                    if future._state != PENDING:
                        self._beside.popleft()
                    elif not self.holds(future):
                        self._beside.popleft()
                        send_beside(future)  # another loop may have adopted it
                    elif self.loop.is_running() or (self.flush(None, until=future) and self.holds(future)):
                        time.sleep(_LOOK_AGAIN)
            except BaseException:  # of a callback; the thread is to send for the others too
                log.exception("a callback of a reply raised")
            finally:
                self._sending.release()  # and look again: one that came just before has found it held

    def adopt(self, other: Outbox) -> None:
        """Takes over what a loop has left that does not run any more."""
        if other._flushing.acquire(blocking=False):  # or else a thread is about to send it
            try:
                moved = {entry.wanted for entry in other._entries}
                self._unsent |= moved  # first: at any moment one of the two holds it
                self._entries.extend(other._entries)
                other._entries.clear()
                other._unsent -= moved
                other._remove()
                self._watch(self._way.lacks())
            finally:
                other._flushing.release()

    def flush(self, deadline: float | None, until: object = None) -> bool:
        """Sends what is here, or what is here until the ask of a future; False where there was no room in time."""
        if deadline is None:
            self._flushing.acquire()
        elif not self._flushing.acquire(timeout=max(0, deadline - time.monotonic())):
            return False
        try:
            while True:
                # While it waits, callbacks of replies may come here again.
                try:
                    entry = self._entries.popleft()
                except IndexError:
                    break
                error: Exception | None = None
                try:
                    if entry.wanted.cancelled():
                        _wire.drop(self._way.mailbox, entry.frame, entry.head)
                    elif not self._deliver(entry.frame, deadline):
                        self._entries.appendleft(entry)
                        return False
                except (ActorError, OSError) as failure:
                    _wire.drop(self._way.mailbox, entry.frame, entry.head)
                    error = failure
                except BaseException:
                    self._entries.appendleft(entry)
                    raise
                self._unsent.discard(entry.wanted)
                entry.sent(error)
                if entry.wanted is until:
                    break
            self._remove()
        finally:
            self._flushing.release()
        return True

    def _deliver(self, frame: bytes, deadline: float | None) -> bool:
        return self._way.deliver_now(frame) if deadline == 0 else self._way.deliver(frame, deadline)

    def _remove(self) -> None:
        if not self._entries and self._way.outboxes.get(self.loop) is self:
            del self._way.outboxes[self.loop]
            self._way.choose_way()

    def _go_on(self) -> None:
        # Where another thread is about to send what it has taken out, it may put it back.
        is_sent = self.flush(0)
        self._watch(_NOTHING if is_sent and not self._entries else self._way.lacks())

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


async def tell(way: Channel, message: tuple[Any, ...]) -> None:
    """Sends a message; waits for room."""
    if _current.deadlocks() is not None and way.is_reader:
        await _tell_itself(way, way.pack(_wire.ITEM, b"", message))
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if not _send(way, way.pack(_wire.ITEM, b"", message), 0, waiter, functools.partial(_settle, waiter)):
        await waiter


_ordered: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None


def _order() -> asyncio.Lock:
    """Has what an actor tells itself go one after the other: a small one may find room where one before it did not.

    It is for the actor's own thread, which runs one event loop at a time.
    """
    global _ordered
    loop = asyncio.get_running_loop()
    if _ordered is None or _ordered[0] is not loop:
        _ordered = loop, asyncio.Lock()
    return _ordered[1]


async def _tell_itself(way: Channel, frame: bytes) -> None:
    """In an actor's own loop. Its driver makes room, unless as many coroutines run as may: then this does."""
    try:
        async with _order():
            turns = 0
            while not way.try_send(frame):
                if turns == _TURNS:
                    way.send(frame)
                    break
                await asyncio.sleep(0)
                turns += 1
    except BaseException:
        _wire.drop(way.mailbox, frame)
        raise


def ask(way: Channel, kind: int, head: bytes, message: object, future: Future[Any]) -> None:
    """Sends an ask, at once or when there is room."""

    def sent(error: Exception | None) -> None:
        if error is not None:
            future._replies.fail(future, error)

    _send(way, way.pack(kind, head, message), len(head), future, sent)


def _send(way: Channel, frame: bytes, head: int, wanted: Any, sent: Callable[[Exception | None], None]) -> bool:
    """Sends a frame; False where there is no room: then ``sent`` will be called."""
    loop = asyncio.get_running_loop()
    for outbox in list(way.outboxes.values()):
        if outbox.thread == threading.get_ident() and not outbox.loop.is_running():
            _outbox(way, loop).adopt(outbox)  # what was sent earlier comes earlier
    try:
        if loop not in way.outboxes and way.deliver_now(frame):
            return True
    except BaseException:
        _wire.drop(way.mailbox, frame, head)
        raise
    _outbox(way, loop).add(_Entry(frame, head, wanted, sent))
    return False


def _outbox(way: Channel, loop: asyncio.AbstractEventLoop) -> Outbox:
    return way.outboxes.get(loop) or Outbox(way)


def _adopt(loop: asyncio.AbstractEventLoop, future: Future[Any], waiter: asyncio.Future[None]) -> None:
    """Has the loop send the future's ask, where another one has left it that does not run any more, now or later."""
    way = future._way
    for outbox in list(way.outboxes.values()):
        if not waiter.done() and outbox.loop is not loop and outbox.holds(future):
            if not outbox.loop.is_running():
                _outbox(way, loop).adopt(outbox)
            if outbox.holds(future):
                loop.call_later(_LOOK_AGAIN, _adopt, loop, future, waiter)


def send_stranded(future: Future[Any], deadline: float | None) -> bool:
    """Sends the future's ask, where an event loop was to do so that does not run, or waits for just this.

    True where somebody else is still to send it, who may end before.
    """
    for outbox in list(future._way.outboxes.values()):
        if outbox.holds(future) and (outbox.thread == threading.get_ident() or not outbox.loop.is_running()):
            outbox.flush(deadline, until=future)
    return any(outbox.holds(future) for outbox in list(future._way.outboxes.values()))


def send_beside(future: Future[Any]) -> None:
    """The same for somebody who must not wait: in a thread of its own, which is rarely needed."""
    for outbox in list(future._way.outboxes.values()):
        if outbox.holds(future):
            outbox.send_beside(future)


os.register_at_fork(after_in_child=_readings.clear)
