"""Restarts: the process between an actor that is to survive and its owner.

::

    owner --starts--> supervisor --starts--> actor     the supervisor holds the mailbox open, and waits
                          |
                          +------starts----> actor     after its death the next one, on the same mailbox

Rules:

1. Who starts the next process must have no threads and no other work. The owner may have both, so each restartable
   actor has a supervisor, which does nothing but wait: it was started as the actor would have been, and starts the
   actor in turn. It forks where the owner forks or has a fork server: it runs one thread, so that is as safe as in the
   fork server, and earns no warning. (Where importing the program's modules started threads, it spawns.) It spawns
   where the owner spawns.
2. It holds the mailbox open, and hands nothing out. So no sender notices a restart, and what is queued, in the FIFO and
   in the inbox, is there for the next process.
3. The message in execution at the death is done with. If it was an ask, the supervisor answers it.
4. The owner's signals to the actor go by way of the supervisor, or else it would be restarted: through a pipe, a byte
   each. When the supervisor ends, so does its actor, as any actor does without its owner.
5. The supervisor ends as its last actor ended, exit code and all.
"""

from __future__ import annotations

import collections
import contextlib
import math
import multiprocessing
import os
import select
import signal
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _dead_letters, _ending, _inbox, _process, _runtime, _waiting, _wire
from ._askers import Askers
from ._ending import Ending
from ._errors import ActorDied
from ._later import unanswered
from ._log import log
from ._loop import RESTART
from ._telling import said, told

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ._mailbox import Mailbox

#: How often to look for the owner where no descriptor tells of its end, in seconds.
_LOOK_AGAIN = 0.1
#: How long the last actor's replies may wait for askers that do not read, in seconds.
_LINGER = 10.0


@dataclass(frozen=True)
class Restart:
    """A value of `Actor`'s ``on_failure``: the actor is restarted after a failure::

        Actor(Counter(), on_failure=Restart(max_restarts=10, within=60))

    A failure is the death of its process, by a signal or ``os._exit``; an exception of a method that was told, not
    asked; an exception of ``__init__`` or ``on_start``. The next process begins with the original object. Its mailbox
    and its proxies stay valid, and what is queued stays queued. The message that was being executed is not executed
    again; if it was an ask, it ends with ActorDied.

    More than ``max_restarts`` within ``within`` seconds are too many: the actor ends. The first restart comes after
    ``backoff`` seconds, and each further one after twice the time, up to ``max_backoff``; an actor that did not fail
    for ``within`` seconds begins anew. ``max_restarts=math.inf`` restarts for ever.

    The semantics of ``max_restarts`` and ``within`` are those of Erlang's supervisors (intensity and period). As there,
    an actor that is closed, that is told to end by SIGTERM or Ctrl-C, or that ends itself by ``sys.exit``, has not
    failed.

    Raises TypeError and ValueError for what can't be right.
    """

    max_restarts: float = 3
    within: float = 5.0
    backoff: float = 0.05
    max_backoff: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_restarts", "within", "backoff", "max_backoff"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not value >= 0 or (name == "backoff" and value == math.inf):
                raise ValueError(f"{name} must be 0 or more, not {value!r}")


def main(mailbox: Mailbox[Any], name: str, target: list[object], restart: Restart, owner: int, *others: Any) -> None:
    """What a supervisor's process does from its start to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the actor, which has it too
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # nobody else reaps the actor, or its exit code would be lost
    signal.set_wakeup_fd(-1)  # a forked process has its parent's, which would hear of its signals
    exitcode = Supervisor(mailbox, name, target, restart, owner, *others).run()
    if exitcode >= 0:
        sys.exit(exitcode)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # there is one of the actor already
    with contextlib.suppress(OSError):  # SIGKILL has no handler
        signal.signal(-exitcode, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-exitcode})
    os.kill(os.getpid(), -exitcode)


class _Last(Exception):
    """There is to be no further process."""

    def __init__(self, ending: Ending, exitcode: int) -> None:
        self.ending = ending
        self.exitcode = exitcode


class Supervisor:
    """Starts the processes of one actor, one after the other."""

    def __init__(
        self,
        mailbox: Mailbox[Any],
        name: str,
        target: list[object],
        restart: Restart,
        owner: int,
        concurrency: int,
        method: str,
        signals: Connection,
        signaller: Connection,
    ) -> None:
        self._mailbox = mailbox
        self._name = name
        (self._target,) = target
        self._restart = restart
        self._owner = owner
        self._concurrency = concurrency
        self._method = method
        self._pipe = (signals, signaller)
        self._process: Any = None
        self._closing = self._told_to_end = False
        self._failures: collections.deque[float] = collections.deque()
        self._backoff = restart.backoff
        self._poll = select.poll()
        self._poll.register(signals.fileno(), select.POLLIN)
        self._askers = Askers(self._poll, mailbox.directory, keeps_journal=False)
        self._owner_fd = _waiting.open_process(owner)
        if self._owner_fd is not None:
            self._poll.register(self._owner_fd, select.POLLIN)
        _runtime.home(mailbox.directory)
        _process.take_signals(lambda number, _: os.write(signaller.fileno(), bytes([number])))
        os.register_at_fork(after_in_child=self._let_go)

    def run(self) -> int:
        """Returns the exit code of the last process."""
        try:
            while True:
                began = time.monotonic()
                ending, exitcode = self._live()
                self._count(time.monotonic(), began)
                self._recover(ending, exitcode)
                self._pause(ending)
        except _Last as last:
            self._end(last.ending)
            return last.exitcode

    def _live(self) -> tuple[Ending, int]:
        """Has one process run from its start to its end; returns how it ended."""
        method = self._method
        if method == "forkserver":  # one more fork server, for one actor, would be a waste
            method = "spawn" if _has_threads() else "fork"
        start: Any = multiprocessing.get_context(method)
        arguments = (self._mailbox, self._name, [self._target], RESTART, os.getpid(), self._concurrency)
        process = start.Process(target=_process.main, args=arguments, name=self._name, daemon=False)
        try:
            self._mailbox.bequeath(process.start, keep=True)
        except OSError as error:
            return Ending(False, f"could not be started: {said(error)}", failed=True), 1
        mailbox = self._mailbox.directory
        _inbox.set_reader(f"{mailbox}/inbox", process.pid)
        self._process = process
        fd = _waiting.open_process(process.pid)
        try:
            self._wait(process.sentinel if fd is None else fd)
        finally:
            if fd is not None:
                os.close(fd)
        process.join()
        self._process = None
        ending = _ending.read(mailbox)
        if ending is None and self._closing and _ending.found_no_room(process.exitcode, mailbox):
            ending = _ending.CLOSED
        return ending or _ending.of_exit(process.exitcode, process.pid, mailbox), process.exitcode

    def _count(self, now: float, began: float) -> None:
        if now - began > self._restart.within:
            self._backoff = self._restart.backoff
        self._failures.append(now)
        while now - self._failures[0] > self._restart.within:
            self._failures.popleft()

    def _recover(self, ending: Ending, exitcode: int) -> None:
        """Makes the mailbox ready for the next process; raises _Last where there is to be none."""
        mailbox = self._mailbox.directory
        if not self._told_to_end:
            self._askers.take_over()  # first: what was answered is not in execution any more
        inbox = _inbox.Inbox(f"{mailbox}/inbox", self._mailbox.fifo)
        try:
            body = inbox.recover()
            if self._told_to_end or not ending.failed or (body is not None and inbox.kind == _wire.CLOSE):
                raise _Last(ending, exitcode)
            if self._closing and not inbox.has_started:
                raise _Last(ending, exitcode)  # what is queued would wait for ever
            if len(self._failures) > self._restart.max_restarts:
                count = len(self._failures) - 1
                ending.reason += f", after {count} restart{'s'[: count != 1]} within {self._restart.within:g} s"
                raise _Last(ending, exitcode)
            if body is not None:
                self._give_up(inbox.kind, body, ending)
            for asker, number in unanswered(mailbox):
                self._tell(asker, number, ending)
            inbox.finish()
            inbox.has_started = False
            _wire.sweep(mailbox, inbox.received)  # of timers, and of what was on its way
        finally:
            inbox.close()
        _runtime.unlink(f"{mailbox}/note")
        for name in os.listdir(mailbox):
            if name.startswith(("replies.", "blocks.")):  # to what it asked, and for what it sent
                _runtime.remove(f"{mailbox}/{name}")

    def _give_up(self, kind: int, body: bytes, ending: Ending) -> None:
        """The message that was being executed may have been executed in part: it is not executed again."""
        if kind & _wire.KIND == _wire.ASK:
            with contextlib.suppress(struct.error):  # rubbish
                number, asker, body = _wire.split_ask(body)
                if kind & _wire.LANED:  # or else it would be executed when it comes the other way
                    self._askers.note_taken(asker, number)
                self._tell(asker, number, ending)
        _wire.drop(self._mailbox.directory, _wire.frame(kind, b"", body))

    def _tell(self, asker: bytes, number: int, ending: Ending) -> None:
        """Tells an asker that there will be no reply."""
        error = ActorDied(f"actor {self._name!r} {ending.reason}; it is restarted, without this message")
        with contextlib.suppress(Exception):  # there is no way to tell him
            self._askers.reply(asker, number, _wire.ERROR, told(error, ending.traceback))

    def _pause(self, ending: Ending) -> None:
        pause = 0 if self._closing else self._backoff
        self._backoff = min(2 * self._backoff, self._restart.max_backoff)
        log.warning("actor %r %s; it is restarted in %g s", self._name, ending.reason, pause)
        self._wait(None, time.monotonic() + pause)

    def _wait(self, process: int | None, deadline: float | None = None) -> None:
        """Waits for the end of a process, or the deadline, and obeys meanwhile."""
        if process is not None:
            self._poll.register(process, select.POLLIN)
        try:
            while process is not None or not self._closing:
                until = deadline
                if self._owner_fd is None:
                    until = _waiting.earlier(deadline, time.monotonic() + _LOOK_AGAIN)
                for fd, _ in self._poll.poll(_waiting.milliseconds(until)):
                    if fd == process:
                        return
                    self._attend(fd)
                if self._owner_fd is None and not _waiting.is_running(self._owner):
                    self._abandon()
                if deadline is not None and time.monotonic() >= deadline:
                    return
        finally:
            if process is not None:
                self._poll.unregister(process)

    def _attend(self, fd: int) -> None:
        if fd == self._owner_fd:
            self._abandon()
        elif fd == self._pipe[0].fileno():
            for number in os.read(fd, 64):
                self._signal(number)
        else:
            self._askers.attend(fd)

    def _signal(self, number: int) -> None:
        if number == 0:
            self._closing = True
        elif self._process is not None:
            self._told_to_end = True  # whatever it dies of now
            os.kill(self._process.pid, number)
        elif number == signal.SIGTERM:
            raise _Last(_ending.TERMINATED, 0)
        elif number == signal.SIGINT:
            raise _Last(_ending.INTERRUPTED, 128 + number)
        else:
            raise _Last(Ending(False, "was killed by its owner, while it was to be restarted"), -number)

    def _abandon(self) -> None:
        """The owner is gone. An actor ends without its owner, and that of the actor's process is this one."""
        if self._process is None:
            ending = _ending.ORPHANED
            with contextlib.suppress(OSError):
                _ending.write(self._mailbox.directory, ending)
            text = f"actor {self._name!r} {ending.reason}"
            _dead_letters.bury(self._mailbox.directory, text, let_go=self._mailbox.stop_reading)
            _ending.leave(self._mailbox.directory, ending)
        os._exit(1)

    def _end(self, ending: Ending) -> None:
        mailbox = self._mailbox
        with contextlib.suppress(OSError):
            _ending.write(mailbox.directory, ending)  # first the note, then the end of reading
        self._askers.end(_LINGER)
        if ending.reason != _ending.INTERRUPTED.reason:  # the end of the program is no news
            text = f"actor {self._name!r} {ending.reason}"
            is_news = ending.failed and not self._told_to_end
            _dead_letters.bury(mailbox.directory, text, is_news, mailbox.stop_reading)
        mailbox.stop_reading()

    def _let_go(self) -> None:
        """In the actor's process: the pipe is not for it, and what it owes is not this one's."""
        for connection in self._pipe:
            connection.close()
        if self._owner_fd is not None:
            os.close(self._owner_fd)
            self._owner_fd = None


def _has_threads() -> bool:
    """Whether this process has more than one, also such as Python does not know."""
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return threading.active_count() > 1
