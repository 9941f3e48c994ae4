"""What an actor answers to those who ask it: at once, later, or that it will not."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import _ending, _wire
from ._askers import Askers
from ._later import FutureReader, Unanswered
from ._log import log
from ._telling import portable, said, shown, told, traceback_of

if TYPE_CHECKING:
    import concurrent.futures
    from typing import TypeGuard

    from ._waiting import Poll


class Answers:
    """The answers of one actor; ``poll`` is what it waits with, ``wake`` has it call `send_done` soon.

    Where it ``is_restarted``, what it still owes is left in its ``mailbox``.
    """

    def __init__(self, name: str, poll: Poll, wake: Callable[[], None], mailbox: str, is_restarted: bool) -> None:
        self._name = name
        self._wake = wake
        self.askers = Askers(poll, mailbox, is_restarted)
        self._unanswered = Unanswered(mailbox) if is_restarted else None
        self.futures = FutureReader(poll)
        #: How many replies are to come later.
        self.owed = 0
        self._done: collections.deque[tuple[bytes, int, str, int, concurrent.futures.Future[Any]]] = collections.deque()
        #: The methods that returned what nobody waits for, and how that failed.
        self.failures: collections.deque[tuple[str, Exception]] = collections.deque()
        self._watched: set[concurrent.futures.Future[Any]] = set()
        self._is_finished = False

    def value(self, asker: bytes, number: int, name: str, value: Any) -> None:
        """Replies what the method ``name`` returned; where that is a future, its result, when it is there."""
        if is_future(value):
            self.later(asker, number, name, value)
        else:
            self._send(asker, number, name, value)

    def watch(self, name: str, future: concurrent.futures.Future[Any]) -> None:
        """Has the future's exception, if it ends with one, be one of the ``failures``.

        Raises OSError where there is no descriptor.
        """
        if future not in self._watched:
            self.futures.open(future)
            self._watched.add(future)
            self.futures.add(future, functools.partial(self._ended, name))

    def later(self, asker: bytes, number: int, name: str, future: concurrent.futures.Future[Any]) -> None:
        """Replies the future's result, when it is there."""
        try:
            self.futures.open(future)
            place = self._unanswered.add(asker, number) if self._unanswered else 0
        except OSError as error:  # no descriptor, or no room to write it down
            self.error(asker, number, portable(error))
            return
        self.owed += 1
        self.futures.add(future, functools.partial(self._came, asker, number, name, place))

    def send_done(self) -> None:
        """Sends the results of futures that are done."""
        while self._done:
            asker, number, name, place, future = self._done.popleft()
            self.owed -= 1
            error = _error_of(future, name)
            if error is None:
                self.value(asker, number, name, future.result())
            else:
                self.error(asker, number, portable(error))
            if self._unanswered:
                self._unanswered.remove(place)

    def finish(self) -> None:
        """Sends the results of futures that are done, for the last time: the end says the same to all other askers."""
        self.send_done()
        self._is_finished = True

    def error(self, asker: bytes, number: int, error: tuple[bytes | None, str, str, str]) -> None:
        """Replies an exception, as `portable` made it."""
        try:
            self.askers.reply(asker, number, _wire.ERROR, error)
        except Exception as failure:  # no descriptor, no room, no such asker: he is not to be helped
            log.error("actor %r (process %d): a reply can't be sent: %s", self._name, os.getpid(), said(failure))

    def refuse(self, frames: Iterable[tuple[int, bytes]]) -> int:
        """Ends asks behind the close at once: what is owed may have to wait for them. Returns how many frames it saw.

        They were read and are not taken, which says that the actor is closing, also to who finds it killed.
        """
        count = 0
        closed = told(_ending.CLOSED.error(self._name))
        for kind, body in frames:
            count += 1
            if kind & _wire.KIND == _wire.ASK:
                try:
                    number, asker, _ = _wire.split_ask(body)
                except struct.error:
                    continue
                with contextlib.suppress(OSError):
                    if kind & _wire.LANED and self.askers.has_taken(asker, number):
                        continue  # it was executed; its reply may be still to come
                self.error(asker, number, closed)
        return count

    def _send(self, asker: bytes, number: int, name: str, value: object) -> None:
        try:
            self.askers.reply(asker, number, _wire.VALUE, value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = f"{name}() returned {shown(value)}, which can't be sent: {said(error)}"
            self.error(asker, number, (None, type(error).__name__, text, traceback_of(error)))

    def _came(self, asker: bytes, number: int, name: str, place: int, future: concurrent.futures.Future[Any]) -> None:
        if not self._is_finished:
            self._done.append((asker, number, name, place, future))
            self._wake()

    def _ended(self, name: str, future: concurrent.futures.Future[Any]) -> None:
        self._watched.discard(future)
        if not future.cancelled() and not self._is_finished and (error := future.exception()) is not None:
            if not isinstance(error, Exception):  # of whoever worked for it: it must not end the actor
                error = RuntimeError(f"what it returned failed: {said(error)}")
            self.failures.append((name, error))
            self._wake()


def is_future(value: object) -> TypeGuard[concurrent.futures.Future[Any]]:
    futures = sys.modules.get("concurrent.futures")
    # While another thread imports it, it may not have everything yet.
    return bool(futures) and issubclass(type(value), getattr(futures, "Future", ()))


def _error_of(future: concurrent.futures.Future[Any], name: str) -> BaseException | None:
    if future.cancelled():
        from concurrent.futures import CancelledError

        return CancelledError(f"{name}() was cancelled")
    return future.exception()
