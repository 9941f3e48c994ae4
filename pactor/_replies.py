"""How the replies to a process come back to the futures that wait for them.

Rules:

1. A process that asks has a mailbox for its replies. There is no thread that reads it: the thread that waits for a
   reply does, and hands out those of the others on its way.
2. One thread reads at a time, the leader. The others wait for their own future; when the leader has its reply, it
   wakes them, and one leads.
3. Callbacks, and `concurrent.futures.wait`, want replies noticed while nobody waits in `Future.result`. A helper
   thread leads then, started when first needed and gone when no such future is left.
4. The leader watches the way to every actor that owes a reply. Where the kernel says that the actor is gone, it first
   reads what the actor still sent, and then ends what is owed.
5. An exception may come at any instruction: Ctrl-C, a signal handler's, a callback's. What was read and not handed
   out is kept (see `_arrivals`), and a leader that is not in here any more is noticed and replaced.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pickle
import queue
import select
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import util
from types import FrameType
from typing import Any

from . import _current, _lane, _runtime, _waiting, _wire
from ._arrivals import Arrivals
from ._channel import Channel
from ._future import PENDING, Future
from ._log import log

_ask_header = struct.Struct("<HBQH").pack  # a frame's header and ASK_HEAD

#: So many actors may have a lane; each holds a descriptor.
_MAX_LANES = 16
#: How often a follower looks whether it is still led, in seconds; and in an actor, which has to read meanwhile.
_LOOK_AGAIN = 0.25
_LOOK_AGAIN_READING = 0.02


class Replies:
    """The replies to a process: where they arrive, and the futures that wait for them."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox
        self._address = os.fsencode(mailbox)
        os.mkfifo(f"{mailbox}/fifo", 0o600)
        self.fd = os.open(f"{mailbox}/fifo", os.O_RDONLY | os.O_NONBLOCK)
        # One writer for as long as there is a reader, or else poll reports the writers' end.
        self._writer = os.open(f"{mailbox}/fifo", os.O_WRONLY | os.O_NONBLOCK)
        self._ask_size = _wire.HEADER_SIZE + _wire.ASK_HEAD.size + len(self._address)
        self._numbers = itertools.count()
        self._pending: dict[int, Future[Any]] = {}
        self.arrivals = Arrivals(mailbox, self.fd, self._pending, self.finish)
        self._leader: dict[str, int] = {}  # its thread: setdefault claims it at once
        self._depth = 0  # how many times: in a callback, or a signal handler, it may wait again
        self._followers: dict[queue.SimpleQueue[None], Future[Any]] = {}
        self._helped: set[int] = set()
        self._helper: threading.Thread | None = None
        self._helping = threading.RLock()
        self._patience = _waiting.Patience()
        self._offered = ""  # the mailbox of the actor that was asked when there was last to be a lane
        self._lanes: weakref.WeakSet[_lane.Lane] = weakref.WeakSet()
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._bundle: _waiting.Bundle | None = None
        self._watched: dict[int, weakref.ref[Channel]] = {}

    def close(self) -> None:
        """In a forked child: the replies are the parent's, and so are the futures."""
        os.close(self.fd)
        os.close(self._writer)
        self.arrivals.close()
        if self._bundle:
            self._bundle.close()
        self.fd = self._writer = -1

    def ask(self, way: Channel, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        number = next(self._numbers)
        if not number % 64:
            self._offer_lane(way)
            self.read_now()  # asked and never looked at, the replies must not pile up
        message = (name, args, kwargs)
        try:
            future = self._pending[number] = Future(self, number, way)
            rest = self._ask_quickly(way, future, message)
            if rest is not None:
                self._ask(way, future, rest, _wire.ASK)
        except BaseException:
            self.forget(number)
            raise
        watched = self._watched.get(way.file)
        if watched is None or watched() is not way:
            self._watch(way.file, weakref.ref(way))
            self._nudge()
        return future

    def forget(self, number: int) -> None:
        """Drops an ask, and its reply when it comes."""
        future = self._pending.pop(number, None)
        self._helped.discard(number)
        if future is not None:
            self.wake_followers(future)
        self._nudge()

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Waits until the future is done, or for ``timeout`` seconds. Raises DeadlockError."""
        self._check_owner()
        deadline = _waiting.deadline_in(timeout)
        if future._way.outboxes:
            from . import _awaiting

            while _awaiting.send_stranded(future, deadline):  # a loop that runs is to send it, and may end before
                if self._wait(future, _waiting.earlier(deadline, time.monotonic() + _LOOK_AGAIN)):
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    return
        deadlocks = _current.deadlocks()
        if deadlocks is None:
            self._wait(future, deadline)
        elif not self._wait(future, _waiting.earlier(deadline, time.monotonic() + deadlocks.PATIENCE)):
            with deadlocks.waiting(future, deadline) as wait:
                while deadline is None or time.monotonic() < deadline:
                    deadlocks.probe(wait)
                    soon = wait.next_probe
                    news = functools.partial(wait.has_news, soon)
                    if self._wait(future, _waiting.earlier(deadline, soon), news):
                        return
                    wait.check()

    def _wait(self, future: Future[Any], deadline: float | None, also: Callable[[], bool] = lambda: False) -> bool:
        """Waits until the future is done, or something ``also`` comes true; returns whether the future is done."""
        while True:
            if self.claim():
                try:
                    self._lead(lambda: future._state != PENDING or also(), deadline, future._way.lane)
                finally:
                    self.release()
                return future._state != PENDING
            self._follow(future, deadline)
            if future._state != PENDING or also() or (deadline is not None and time.monotonic() >= deadline):
                return future._state != PENDING
            self.replace_leader()

    def read_now(self) -> bool:
        """Hands out what has arrived; waits for nothing. False where another thread is to do so."""
        self._check_owner()
        if not self.claim():
            return False
        try:
            self._lead(lambda: False, 0)
        finally:
            self.release()
        return True

    def fileno(self) -> int:
        """A descriptor that is readable when there is something for `read_now` to hand out."""
        self._check_owner()
        with self._helping:
            if self._bundle is None:
                self._bundle = _waiting.Bundle()
                self.register(self._bundle)
        return self._bundle.fileno()

    def help(self, future: Future[Any]) -> None:
        """Has the future resolved also while nobody waits for it in here."""
        self._check_owner()
        if future._way.outboxes:
            from . import _awaiting

            _awaiting.send_beside(future)
        with self._helping:
            if future._number not in self._pending:
                return
            self._helped.add(future._number)
            if future._number not in self._pending:  # again: a leader may just have handed it out
                self._helped.discard(future._number)
                self._nudge()
            elif self._helper is None:
                helper = threading.Thread(target=self._help, name="pactor replies", daemon=True)
                helper.start()
                self._helper = helper

    # A reader for whoever waits, see _waiting.

    def claim(self) -> bool:
        me = threading.get_ident()
        mine = {"thread": me}
        while self._leader.setdefault("thread", me) == me:
            if self._depth and not _leads(sys._getframe(2)):
                self._depth = 0  # an exception came between an earlier claim and its use
            if self._leader == mine:  # or else a signal handler has waited since, and let go
                self._depth += 1
                return True
        return False

    def register(self, poll: _waiting.Poll) -> None:
        poll.register(self.fd, select.POLLIN)
        for fd, watched in list(self._watched.items()):
            way = watched()
            if way is not None and way.file == fd:  # or else it is closed, or another's by now
                poll.register(fd, 0)

    def read(self, fd: int) -> None:
        arrivals = self.arrivals
        if self._depth == 1 and (arrivals.in_doubt or arrivals.in_hand):
            arrivals.resume()
        if fd == self.fd:
            arrivals.receive()
        elif fd in self._watched:
            self._bury(fd)

    def release(self) -> None:
        if self._depth > 1:
            self._depth -= 1
            self._nudge()  # a signal handler may have waited, and what it interrupted sleeps: it is to look again
        else:
            self._depth = 0
            self._leader.pop("thread", None)
            arrivals = self.arrivals
            if arrivals.in_doubt or arrivals.in_hand:  # an exception came, and an event loop may wait for what is here
                _wire.write_now(self._writer, _wire.NUDGE_FRAME)
            if self._followers:
                self.wake_followers()

    def _ask(self, way: Channel, future: Future[Any], message: object, kind: int) -> None:
        head = _wire.ASK_HEAD.pack(future._number, len(self._address)) + self._address
        if _waiting.running_loop() is None or way.is_reader:
            way.post(kind, head, message)
        else:
            from . import _awaiting

            _awaiting.ask(way, kind, head, message, future)

    def _ask_quickly(self, way: Channel, future: Future[Any], message: object) -> object:
        """By far the most asks; returns what is still to be sent, None for nothing."""
        if way.large:
            return message
        try:
            body = pickle.dumps(message, 5)
        except _wire.REFUSALS:
            return message
        size = len(body)
        if size >= _wire.SHORTEST_WITH_CONNECTION and body.count(_wire.CONNECTION):
            return message
        size += self._ask_size
        if size > _wire.MAX_FRAME or way.headers is not _wire.ITEM_HEADERS:
            return _wire.Pickled(body)
        number, rest, lane = future._number, self._address + body, way.lane
        if (
            lane is not None
            and len(self._pending) == 1
            and way.fd >= 0
            and lane.is_looked_at()
            and lane.sending.acquire(blocking=False)
        ):
            try:
                frame = _ask_header(size, _wire.ASK | _wire.LANED, number, len(self._address)) + rest
                # Before the next one goes through the lane, it is known which way this one went.
                if not lane.send(number, frame) and not _wire.write_now(way.fd, frame):
                    self._ask(way, future, _wire.Pickled(body), _wire.ASK | _wire.LANED)
            finally:
                lane.sending.release()
            return None
        is_written = _wire.write_now(way.fd, _ask_header(size, _wire.ASK, number, len(self._address)) + rest)
        return None if is_written else _wire.Pickled(body)

    def _offer_lane(self, way: Channel) -> None:
        """Makes a lane to an actor that is asked again and again, if one waits for each reply, and not for long."""
        before, self._offered = self._offered, way.mailbox
        if before != way.mailbox or self._pending or not self._patience.was_short or way.fd < 0:
            return
        if way.lane is None:
            if not _lane.IS_POSSIBLE or len(self._lanes) >= _MAX_LANES:
                return
            try:
                lane = _lane.Lane.make(way.mailbox, self.mailbox)
            except OSError as error:
                if error.errno is None:  # a signal handler's
                    raise
                return
            way.__dict__.setdefault("lane", lane)  # another thread may have made one; of two, none would know
            self._lanes.add(lane)
        elif way.lane.is_looked_at():
            return
        # Also of one that it has: it may look into another's by now, or be another process.
        _wire.write_now(way.fd, _wire.frame(_wire.LANE, b"", self._address))

    def _lead(self, done: Callable[[], bool], deadline: float | None, lane: _lane.Lane | None = None) -> None:
        poll, others = self._poll, []
        if self._depth > 1:  # what this thread waits with may be in use further out
            poll = select.poll()
            self.register(poll)
            self.arrivals.hand_out()  # what it has read further out
        elif self.arrivals.in_doubt or self.arrivals.in_hand:
            self.arrivals.resume()
        if len(_waiting.readers) > 1 and deadline != 0:
            poll = select.poll()
            self.register(poll)
            others = [reader for reader in _waiting.readers if reader is not self and reader.claim()]
        try:
            while not done():
                until = _waiting.register(others, poll, deadline)
                events = poll.poll(0) if deadline == 0 else self._patience.wait(poll, until, lane)
                if events is _waiting.BY_LANE and lane:
                    self.arrivals.receive_from(lane)
                    continue
                for fd, _ in events:
                    self.read(fd)
                    for reader in others:
                        reader.read(fd)
                    if fd != self.fd and fd not in self._watched:
                        _forget(poll, fd)
                        self._unwatch(fd, None)
                if poll is not self._poll:
                    self.register(poll)
                if deadline is not None and time.monotonic() >= deadline:
                    return
        finally:
            for reader in others:
                reader.release()

    def _follow(self, future: Future[Any], deadline: float | None) -> None:
        """Waits a while for what the leader hands out."""
        soon = time.monotonic() + (_LOOK_AGAIN if len(_waiting.readers) == 1 else _LOOK_AGAIN_READING)
        soon = _waiting.earlier(deadline, soon)
        if len(_waiting.readers) > 1:
            _waiting.wait(None, 0, soon)
            return
        # Not the future's condition: a signal handler may wait while this thread holds it, and the leader would too.
        woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._followers[woken] = future
        try:
            # The leader lets go, or decides the future, and then wakes its followers: either that is seen here, or it
            # wakes this one.
            if self._leader and future._state == PENDING:
                with contextlib.suppress(queue.Empty):
                    woken.get(timeout=max(0, soon - time.monotonic()))
        finally:
            del self._followers[woken]

    def wake_followers(self, future: Future[Any] | None = None) -> None:
        """Those that wait for a future; or all: one alone may have its reply by now, or no time left, and not lead."""
        for woken, followed in self._followers.copy().items():
            if future is None or followed is future:
                woken.put(None)

    def replace_leader(self) -> None:
        """Where the leader's thread is not in here any more, an exception came to it between two lines."""
        leader = self._leader.get("thread")
        if leader is not None:
            frame = sys._current_frames().get(leader)
            if not _leads(frame) and self._leader.get("thread") == leader:
                self._depth = 0
                self._leader.pop("thread", None)

    def _help(self) -> None:
        while True:
            while not self.claim():
                time.sleep(_LOOK_AGAIN_READING)
                self.replace_leader()
            try:
                self._lead(lambda: not self._helped, None)
            except BaseException:  # of a callback; the helper is to help the others too
                log.exception("a callback of a reply raised")
            finally:
                self.release()
            with self._helping:
                if not self._helped:
                    self._helper = None
                    return

    def _nudge(self) -> None:
        """Has a leader that is waiting look again."""
        if self._leader:
            _wire.write_now(self._writer, _wire.NUDGE_FRAME)  # where there is no room it will wake

    def _bury(self, fd: int) -> None:
        """Ends what an actor owes that is gone."""
        watched = self._watched.get(fd)
        way = watched() if watched else None
        if way is not None and way.file == fd:
            if not _waiting.is_ready(fd, 0):
                return  # the event was of another one that had this descriptor
            while self.arrivals.receive():  # what it sent before it ended
                pass
            ending = way.look()
            way.end(ending)
            for future in list(self._pending.values()):
                if future._way is way:
                    self.finish(future, None, ending.error(way.name))
        self._unwatch(fd, watched)

    def _watch(self, fd: int, way: weakref.ref[Channel]) -> None:
        """Has the leader, whoever it is, told of the end of an actor."""
        self._watched[fd] = way
        self._poll.register(fd, 0)  # only errors, which are always reported
        if self._bundle:
            self._bundle.register(fd, 0)

    def _unwatch(self, fd: int, way: weakref.ref[Channel] | None) -> None:
        """Has nobody told of it any more."""
        _forget(self._poll, fd)
        if self._bundle:
            _forget(self._bundle, fd)
        found = self._watched.pop(fd, None)
        if found is not None and found is not way:  # another thread has asked an actor by this descriptor meanwhile
            self._watch(fd, found)

    def fail(self, future: Future[Any], error: BaseException) -> None:
        """Decides a future for which another thread may lead."""
        try:
            self.finish(future, None, error)
        finally:
            self._nudge()

    def finish(self, future: Future[Any], value: object, error: BaseException | None) -> None:
        """Decides a future."""
        try:
            future._finish(value, error)
        finally:
            if future._state != PENDING:  # or else an exception came first, and the reply will be handed out again
                self._pending.pop(future._number, None)
                self._helped.discard(future._number)
                if self._followers:
                    self.wake_followers(future)

    def _check_owner(self) -> None:
        if self.fd < 0:
            raise RuntimeError("this process was forked from the one that asked, and the reply goes there")


def _forget(poll: _waiting.Poll, fd: int) -> None:
    try:
        poll.unregister(fd)
    except KeyError:
        pass


def _leads(frame: FrameType | None) -> bool:
    """Whether the thread of this frame is at work as the leader."""
    while frame is not None:
        if frame.f_code in _LEADING:
            return True
        frame = frame.f_back
    return False


_LEADING = {
    function.__code__ for function in (Replies._lead, Replies._wait, Replies._help, Replies.read_now, _waiting.wait)
}


_replies: Replies | None = None


def replies(neighbour: str) -> Replies:
    """This process's replies: made when it first asks, beside ``neighbour`` if it has no place of its own yet."""
    global _replies
    if _replies is not None:
        return _replies
    with _making:
        if _replies is None:
            made = Replies(_runtime.new_replies(neighbour))
            if _replies is None:
                _replies = made
                _waiting.readers.append(made)
                util.Finalize(None, _runtime.remove, (made.mailbox,), exitpriority=3)
            else:  # a signal handler has asked meanwhile
                made.close()
                _runtime.remove(made.mailbox)
    return _replies


_making = threading.RLock()  # not to be waited for by a signal handler of who has it


def _after_fork() -> None:
    global _replies, _making
    _making = threading.RLock()
    if _replies is not None:
        _replies.close()
        _replies = None


os.register_at_fork(after_in_child=_after_fork)
