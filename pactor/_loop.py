"""The actor's process: it receives, executes, replies, and ends.

::

    caller                                   kernel                    actor's process
    proxy.add(5)                             named FIFO, one per       wait -> read into the inbox
     -> check, pickle, frame  -- os.write -> mailbox                   -> unpickle -> obj.add(5)
     (one system call)                                                 -> the reply, for an ask, to the asker's FIFO

Rules:

1. One message at a time, in the order of their arrival. What a method raises concerns its asker, or `on_failure`,
   never the messages behind it.
2. A reply waits for nobody: where the asker's FIFO is full, it is kept here and sent when there is room.
3. The process outlives its owner by the message in execution, and those of the 0.05 s between two looks.
4. At the end comes first the note that says why, then the end of reading: who learns of the one finds the other.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import os
import pickle
import select
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from . import _channel, _current, _dead_letters, _ending, _proxy, _runtime, _waiting, _wire
from ._answers import Answers, is_future
from ._deadlock import Deadlocks
from ._ending import Ending
from ._enqueue import Enqueue, EnqueueLater, Timer, check_injectable, inject
from ._log import log
from ._stand_in import StandIn
from ._telling import portable, said, traceback_of, without_loop
from ._watches import Watches

if TYPE_CHECKING:
    from ._lane import Lane
    from ._mailbox import Mailbox
    from ._proxy import Proxy

#: How long messages in a row may take before the loop looks whether the owner is alive, and waiting replies have room,
#: in seconds.
LOOK_UP = 0.05
#: How long an actor that ends waits for askers that do not read, in seconds.
_LINGER = 10.0
#: How often to look for lost slots, and for the owner where no descriptor tells of its end, in seconds.
_LOOK_AGAIN = 0.1
#: The same while all slots are there, as one may be lost during the sleep: who has a maxsize, and nothing to do, looks.
_LOOK_SELDOM = 1.0
#: How many messages behind its close an actor reads that is not done yet, to refuse them; more wait for its end.
_MOST_REFUSED = 10_000

#: The policy of an actor with a supervisor: what fails is restarted.
RESTART = "restart"


class Stop(BaseException):
    """Ends the loop; no handler of the wrapped object's must catch it."""

    def __init__(self, ending: Ending, exitcode: int) -> None:
        self.ending = ending
        self.exitcode = exitcode


class Loop:
    """Receives the messages of one actor, and executes them."""

    make_poll: Callable[[], _waiting.Poll] = select.poll

    def __init__(self, mailbox: Mailbox[Any], name: str, on_failure: str, owner: int) -> None:
        self._mailbox = mailbox
        self._name = name
        self._on_failure = on_failure
        self._owner = owner
        self._orphaned = _ending.unsupervised(owner) if on_failure == RESTART else _ending.ORPHANED
        self._inbox = mailbox.open_inbox()
        self._inbox.recover()
        self._inbox.note_reader()  # before it can answer: its starter may be slower
        self._own = _channel.channel(mailbox.directory, name)
        self._own.open_as_reader()
        self.thread = threading.get_ident()
        self.deadlocks = Deadlocks(mailbox.directory, name, self._inbox)
        self.current: _current.CurrentActor | None = None
        self._terminated = self._closing = False
        self._reads_ahead = False  # what can't be executed yet is received all the same
        self._refused = 0  # messages behind the close
        self._deaf = False  # nothing is read from the mailbox any more, not even a nudge
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_numbers = itertools.count()
        # Whether something new is to be looked at between two messages, besides timers.
        self._attention = False
        self._patience = _waiting.Patience()
        self._is_waiting = False
        self.poll = self.make_poll()
        self.poll.register(mailbox.fifo, select.POLLIN)
        self._answers = Answers(name, self.poll, self.wake, mailbox.directory, on_failure == RESTART)
        self._watches = Watches(self.poll, self._own)
        self._owner_fd = _waiting.open_process(owner)
        if self._owner_fd is not None:
            self.poll.register(self._owner_fd, select.POLLIN)
        self._fifo = mailbox.fifo
        self._forked = False
        self._stand_in = StandIn(self._inbox, mailbox.fifo, self._pull, self._note_stand_in)
        os.register_at_fork(after_in_child=self._note_fork)
        _waiting.readers += self, self._stand_in
        _current.enter(self)
        _runtime.home(mailbox.directory)
        _runtime.belongs_to(mailbox.directory)

    def build(self, target: Any) -> None:
        """Makes the wrapped object, and puts into it what it calls itself by."""
        try:
            built = pickle.loads(target) if isinstance(target, bytes) else target
            cls = _proxy.wrapped_class(built)
            proxy = _proxy.make_at_use(cls, self._own)
            self._object = self._called(built) if isinstance(built, (type, functools.partial)) else built
            if type(self._object) is not cls:
                check_injectable(type(self._object))
            enqueue, enqueue_later = Enqueue(proxy, self._object), EnqueueLater(proxy, self._object, self)
            self.current = _current.CurrentActor(self._name, proxy, enqueue, enqueue_later)
            inject(self._object, enqueue=enqueue, enqueue_later=enqueue_later)
            if hasattr(type(self._object), "on_start"):
                self._call(self._object.on_start)
            self._inbox.has_started = True
        except (KeyboardInterrupt, Stop):
            raise
        except SystemExit as error:
            self._exit("its start", error)
        except BaseException as error:
            ending = Ending(False, f"could not start: {said(error)}", traceback_of(error), failed=True)
            log.error("actor %r (process %d) could not start", self._name, os.getpid(), exc_info=error)
            raise Stop(ending, 1) from None

    def run(self) -> None:
        """Executes messages until the end; raises Stop."""
        inbox, obj, bound, timers = self._inbox, self._object, self._mailbox.slots, self._timers
        take, loads, stand_in = inbox.take, pickle.loads, self._stand_in
        # By far the most: for them no call that can be spared.
        told = {_wire.ITEM | _wire.OWN} if bound else {_wire.ITEM | _wire.OWN, _wire.ITEM}
        asked = -1 if bound else _wire.ASK
        now = time.monotonic
        look_up = now() + LOOK_UP
        while True:
            body = take()
            if body is None:
                self._wait()
                continue
            if inbox.kind in told:
                try:
                    name, args, kwargs = loads(body)
                except BaseException as error:
                    self._unreadable(error)
                else:
                    stand_in.is_away = True
                    try:
                        value = getattr(obj, name)(*args, **kwargs)
                        if value is not None:
                            self._told(name, value)
                    except BaseException as error:
                        stand_in.is_away = False
                        self._failed(name, error)
                    stand_in.is_away = False  # before the look at `_attention`
            elif inbox.kind == asked:
                self._answer(_wire.ASK, body)
            else:
                self._receive(inbox.kind, body)
            if self._attention or timers:
                self._attend()
            if now() > look_up:
                self._look_up()
                look_up = now() + LOOK_UP

    def stop(self) -> None:
        """Has the wrapped object do what it does at its end."""
        if self._forked:
            self._leave(1)
        self._stand_in.leave()
        self._stand_in.come_back()
        self._answers.finish()
        if hasattr(type(self._object), "on_stop"):
            try:
                self._call(self._object.on_stop)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                log.error(
                    "actor %r (process %d): on_stop() raised", self._name, os.getpid(), exc_info=without_loop(error)
                )

    def later(self, delay: float, frame: bytes) -> Timer:
        """Has the frame sent to this actor itself after ``delay`` seconds."""
        timer = Timer(self._own, frame)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._timer_numbers), timer))
        self.wake()
        return timer

    def wake(self) -> None:
        """Has what is due between two messages looked at. From any thread."""
        self._attention = True
        # In its own thread a signal handler calls, while what it interrupted sleeps.
        if self._is_waiting or threading.get_ident() != self.thread:
            self._nudge()

    def watch(self, proxy: Proxy, method: Callable[..., object]) -> None:
        """Has the method called when the other actor has ended."""
        assert self.current is not None
        self.current.enqueue.method(method).__check__(self.current.proxy, proxy, None)  # type: ignore[attr-defined]
        self._watches.add(proxy, method)
        self._nudge()

    def interrupt(self, *_signal: object) -> None:
        """Ends the loop behind the message in execution: the handler of SIGTERM."""
        self._terminated = self._attention = True
        self._nudge()

    def end(self, ending: Ending) -> None:
        """Tells whom it concerns that the actor takes no more messages, and why."""
        if self._forked:
            self._leave(1)
        try:
            _ending.write(self._mailbox.directory, ending)
        except OSError as error:
            log.error("actor %r can't leave word why it ends: %s", self._name, error)
        if not (ending.failed and self._on_failure == RESTART):  # or else the supervisor sees to what is left
            self._answers.askers.end(_LINGER)  # before the end of reading, at which the askers give up
        _waiting.readers.remove(self)
        _waiting.readers.remove(self._stand_in)
        is_last = self._on_failure != RESTART or _waiting.has_ended(self._owner)  # or else the supervisor is
        if is_last and ending is not _ending.INTERRUPTED:  # the end of the program is no news
            text = f"actor {self._name!r} {ending.reason}"
            _dead_letters.bury(self._mailbox.directory, text, let_go=self._mailbox.stop_reading)
        self._mailbox.stop_reading()
        if ending is self._orphaned:
            _ending.leave(self._mailbox.directory, ending)

    # A reader for whoever waits in this process, see _waiting.

    def claim(self) -> bool:
        if threading.get_ident() != self.thread:
            return False
        self._stand_in.keep_out()
        return True

    def register(self, poll: _waiting.Poll) -> None:
        poll.register(self._fifo, select.POLLIN)

    def read(self, fd: int) -> None:
        if fd == self._fifo:
            self.deadlocks.look(self._pull())

    def release(self) -> None:
        self._stand_in.let_in()
        if self._is_waiting:
            self._nudge()  # a signal handler has waited, and what it interrupted sleeps: it is to look again

    def _receive(self, kind: int, body: bytes) -> None:
        if self._mailbox.slots and kind & ~_wire.STORED in (_wire.ITEM, _wire.ASK):
            self._mailbox.slots.give()
        if kind & _wire.KIND == _wire.CLOSE:
            self._closing = self.deadlocks.is_closing = True
            self._answers.refuse(self._inbox.unfinished())
            self._close()
        elif kind & _wire.KIND == _wire.ITEM:
            self._tell(kind, body)
        elif kind & _wire.KIND == _wire.ASK:
            if not (kind & _wire.LANED and self._has_come(body)):
                self._answer(kind, body)
        elif kind & _wire.KIND == _wire.LANE:
            self._answers.askers.open_lane(body)
        elif kind & _wire.KIND == _wire.ENDED:
            self._hear(body)

    def _tell(self, kind: int, body: bytes) -> None:
        try:
            name, args, kwargs = _wire.unpack(self._mailbox.directory, kind, body)
        except BaseException as error:
            return self._unreadable(error)
        try:
            self._stand_in.is_away = True
            try:
                value = getattr(self._object, name)(*args, **kwargs)
            finally:
                self._stand_in.is_away = False
                self._stand_in.come_back()
            self._told(name, value)
        except BaseException as error:
            self._failed(name, error)

    def _told(self, name: str, value: object) -> None:
        """What a method returned whose reply nobody waits for: an exception that comes later is its too."""
        if is_future(value):
            self._answers.watch(name, value)

    def _answer(self, kind: int, body: bytes) -> None:
        try:
            number, asker, message = _wire.split_ask(body)
        except struct.error as error:
            return self._unreadable(error)
        try:
            name, args, kwargs = _wire.unpack(self._mailbox.directory, kind, message)
        except (KeyboardInterrupt, Stop):
            raise
        except BaseException as error:
            told = portable(error)
            if isinstance(error, SystemExit):  # only its text: it must not end the asker either
                told = None, *told[1:]
            return self._answers.error(asker, number, told)
        try:
            self._stand_in.is_away = True
            try:
                value = getattr(self._object, name)(*args, **kwargs)
            finally:
                self._stand_in.is_away = False
                self._stand_in.come_back()
        except (KeyboardInterrupt, SystemExit) as error:
            self._failed(name, error)
        except BaseException as error:
            if self._forked:
                self._leave(1)
            self._answers.error(asker, number, portable(error))
        else:
            if self._forked:
                self._leave(0)
            self._answered(asker, number, name, value)

    def _has_come(self, body: bytes) -> bool:
        """Whether an ask that comes through the FIFO after all has come through a lane, or can't be known not to."""
        try:
            number, asker, _ = _wire.split_ask(body)
        except struct.error:
            return False  # `_answer` says so
        try:
            return self._answers.askers.has_taken(asker, number)
        except OSError as error:
            self._answers.error(asker, number, portable(error))
            return True

    def _answered(self, asker: bytes, number: int, name: str, value: object) -> None:
        """What a method returned whose reply somebody waits for."""
        self._answers.value(asker, number, name, value)

    def _unreadable(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        log.error(
            "actor %r (process %d): a message can't be loaded here: skipped", self._name, os.getpid(), exc_info=error
        )

    def _failed(self, name: str, error: BaseException) -> None:
        """A method raised, and nobody waits for what it raised."""
        if isinstance(error, (KeyboardInterrupt, Stop)):
            raise error
        if isinstance(error, SystemExit):
            self._exit(f"{name}()", error)
        text = traceback_of(error) if self._on_failure != "resume" else ""  # first: the log takes off the loop's line
        then = {"resume": "goes on with the next message", "stop": "ends", RESTART: "is restarted"}[self._on_failure]
        log.error(
            "actor %r (process %d): %s() raised; it %s",
            self._name,
            os.getpid(),
            name,
            then,
            exc_info=without_loop(error),
        )
        if self._on_failure != "resume":
            reason = f"stopped: {name}() raised {said(error)}"
            raise Stop(Ending(False, reason, text, failed=not self._terminated), 1) from None

    def _exit(self, what: str, error: SystemExit) -> NoReturn:
        code = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, (int, type(None))):
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{error.code}\n")  # as every process does
        if self._forked:
            self._leave(code)
        raise Stop(Ending(False, f"ended itself: {what} raised {said(error)}"), code) from None

    def _wait(self) -> None:
        """Waits for something to do, or does it."""
        self._stand_in.leave()
        if self._attention:
            self._attend()
            return  # it may have been what the caller waits for
        if self._inbox.is_to_close and not self._deaf:  # the word came when the last read had begun: none may follow
            self._pull()
            return
        self._is_waiting = True
        try:
            if self._is_due():  # a signal handler came before this line, and found nobody to nudge
                return
            lane = None if self._closing else self._answers.askers.lane
            events = self._patience.wait(self.poll, self._deadline(), lane)
        finally:
            self._is_waiting = False
        if events is _waiting.BY_LANE and lane:
            events = self.poll.poll(0)  # behind the look: what was sent before what it saw comes before that
            if not events:
                self._take_from(lane)
        self._heed(events)

    def _take_from(self, lane: Lane) -> None:
        """Executes what was seen in the lane."""
        if self._inbox.is_empty() and (frame := lane.peek()) is not None:  # or else a signal handler has received
            self._inbox.set_aside(frame)  # first: who finds it taken must also find whose it is
            lane.take()
            self._answer(_wire.ASK, frame[_wire.HEADER_SIZE :])

    def _is_due(self) -> bool:
        return self._attention or not (self._closing or self._inbox.is_empty())

    def _deadline(self) -> float | None:
        deadline = self._timers[0][0] if self._timers else None
        slots = self._mailbox.slots
        if self._owner_fd is None or self._deaf or (slots and slots.taken()):
            deadline = _waiting.earlier(deadline, time.monotonic() + _LOOK_AGAIN)
        elif slots:  # a sender that is killed takes one with it while this one sleeps
            deadline = _waiting.earlier(deadline, time.monotonic() + _LOOK_SELDOM)
        return deadline

    def _heed(self, events: list[tuple[int, int]]) -> None:
        for fd, _ in events:
            self._notice(fd)
        if not events and self._mailbox.slots and self._inbox.is_empty() and not self._closing:
            self._mailbox.repair()
        if self._attention or self._timers:
            self._attend()
        if self._owner_fd is None:
            self._look_up()

    def _attend(self) -> None:
        """Does what is due between two messages."""
        self._attention = False  # first: what comes meanwhile wants it again
        if self._forked:
            self._leave(0)
        self._stand_in.come_back()
        if self._terminated:
            if not self._closing:  # or else the CLOSE is to stay in execution, for the supervisor
                self._inbox.finish()
            raise Stop(_ending.TERMINATED, 0)
        self._answers.send_done()
        while self._answers.failures:
            name, error = self._answers.failures.popleft()
            try:
                raise error
            except Exception as raised:
                self._failed(name, raised)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]._fire()

    def _look_up(self) -> None:
        """Sees to what does not come through the mailbox, where messages are all that comes."""
        for fd, _ in self.poll.poll(0):
            self._notice(fd)
        if self._owner_fd is None and not _waiting.is_running(self._owner):
            raise Stop(self._orphaned, 1)

    def _notice(self, fd: int) -> None:
        if fd == self._fifo:  # by far the most
            if self._inbox.is_empty() or self._closing or self._reads_ahead:
                self._pull()
        elif fd == self._owner_fd:
            raise Stop(self._orphaned, 1)
        elif fd in self._watches:
            self._watches.tell(fd)
        elif fd == self._answers.futures.fd:
            self._answers.futures.read()
        else:
            self._answers.askers.attend(fd)

    def _pull(self) -> int:
        """Receives what the mailbox holds; returns how many bytes came."""
        came = self._inbox.pull()
        if self._closing:
            self._refused += self._answers.refuse(self._inbox.latest(came))
            if self._refused > _MOST_REFUSED and not self._deaf:
                self.poll.unregister(self._fifo)
                self._deaf = True
        return came

    def _hear(self, token: bytes) -> None:
        if call := self._watches.take(token):
            method, arguments = call
            try:
                self._told(method.__name__, self._called(method, *arguments))
            except BaseException as error:
                self._failed(method.__name__, error)

    def _close(self) -> None:
        """Ends it, once it has sent what it still owes."""
        while self._answers.owed:
            self._wait()
        raise Stop(_ending.CLOSED, 0)

    def _call(self, method: Callable[[], object]) -> None:
        """Calls what the wrapped object has for its beginning, or its end."""
        self._called(method)

    def _called(self, method: Callable[..., Any], *arguments: object) -> Any:
        """What a method returns; while it waits, others may receive.

        Where messages are executed the same stands inline: a call costs, and is a line of each traceback in the log.
        """
        self._stand_in.is_away = True
        try:
            return method(*arguments)
        finally:
            self._stand_in.is_away = False
            self._stand_in.come_back()

    def _nudge(self) -> None:
        _wire.write_now(self._own.file, _wire.NUDGE_FRAME)  # where there is no room it will wake anyway

    def _note_stand_in(self) -> None:
        self._attention = True

    def _note_fork(self) -> None:
        """In a child that a method forks: it may go on in the method, but this is its parent's loop."""
        self._forked = self._attention = True
        self._stand_in.forget_threads()

    def _leave(self, exitcode: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(exitcode)
