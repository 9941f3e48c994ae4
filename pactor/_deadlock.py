"""Actors that wait for each other in a circle are told so.

An actor whose method waits for a reply for a while sends a probe behind its ask. Rules:

1. An actor that gets a probe passes it on behind the ask that it is waiting for itself, if it does, and if the ask
   before the probe is still unanswered in its inbox. Else it drops it.
2. A probe that comes back has gone around a circle. Each one in it waited when the probe came by, and for one that
   came by later and had not answered: so all of them wait now, and for each other. That is no guess, however slow the
   machine is.
3. A wait that times out breaks the circle, and the others are answered. So the error is for the one that gives up
   first: it takes a probe for true if nobody else in the circle gives up earlier than itself.
4. The last one to begin to wait finds the circle closed, so a probe is sent but seldom: after 0.1 s, 0.2 s, 0.4 s and
   so on; and once more when another's probe comes by, for that may be the last one's.

This is the algorithm of Chandy, Misra and Haas for the resource model ("Distributed deadlock detection", 1983).
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _wire
from ._dead_letters import method_of
from ._errors import DeadlockError

if TYPE_CHECKING:
    from ._channel import Channel
    from ._future import Future
    from ._inbox import Inbox


#: Stands for the number of an ask where an owner waits for the end of its actor.
_END = (1 << 64) - 1


class Wait:
    """The actor's thread waits for a reply, or for the end of an actor that it owns."""

    def __init__(self, way: Channel, asker: str, number: int, deadline: float | None) -> None:
        self.way = way
        self.asker = os.fsencode(asker)
        self.number = number
        self.deadline = math.inf if deadline is None else deadline
        self.next_probe = 0.0  # on the monotonic clock
        self.pause = Deadlocks.PATIENCE
        self.circle: list[tuple[str, str, str]] = []  #: who waits for what of whom

    def has_news(self, until: float) -> bool:
        """Whether there is something to do before that moment."""
        return bool(self.circle) or self.next_probe < until

    def check(self) -> None:
        """Raises DeadlockError if the reply can't come."""
        if self.circle:
            raise DeadlockError(
                "actors wait for each other: "
                + ", ".join(f"{waiter!r} for {what} of {other!r}" for waiter, what, other in self.circle)
                + "; one of them must go on without that reply: tell instead of ask, or ask and wait elsewhere"
            )


class Deadlocks:
    """The probes of one actor."""

    #: After how many seconds of waiting the first one is sent.
    PATIENCE = 0.1

    def __init__(self, mailbox: str, name: str, inbox: Inbox) -> None:
        self._mailbox = mailbox
        self._name = name
        self._inbox = inbox
        self._waits: list[Wait] = []  # the innermost, where it is at, comes last
        #: All asks that are here have been answered, or refused.
        self.is_closing = False

    def waiting(self, future: Future[Any], deadline: float | None) -> contextlib.AbstractContextManager[Wait]:
        """For as long as the actor's thread waits for a reply."""
        return self._waiting(Wait(future._way, future._replies.mailbox, future._number, deadline))

    def joining(self, way: Channel, deadline: float | None) -> contextlib.AbstractContextManager[Wait]:
        """The same for the end of an actor. It sends no probes: one that asks is in every circle, and does."""
        return self._waiting(Wait(way, self._mailbox, _END, deadline))

    @contextlib.contextmanager
    def _waiting(self, wait: Wait) -> Iterator[Wait]:
        try:
            self._waits.append(wait)
            yield wait
        finally:
            if wait in self._waits:  # or else an exception of a signal handler came first
                self._waits.remove(wait)

    def probe(self, wait: Wait) -> None:
        """Sends a probe, when it is time for one."""
        now = time.monotonic()
        if now >= wait.next_probe:
            wait.next_probe = now + wait.pause
            wait.pause *= 2
            self._send(wait, (self._mailbox, wait.number, math.inf, [], [self._mailbox]))

    def look(self, new: int) -> None:
        """Looks for probes in the last so many bytes of the inbox."""
        if self._waits:
            for kind, body in self._inbox.latest(new):
                if kind == _wire.PROBE:
                    with contextlib.suppress(Exception):  # of what is no probe
                        self._receive(*pickle.loads(body))

    def _receive(self, probe: tuple[Any, ...], waiter: str, asker: bytes, number: int) -> None:
        origin, origins_number, earliest, circle, visited = probe
        wait = self._waits[-1]
        what = self._owes(asker, number)
        if what is None:
            return
        circle = [*circle, (waiter, what, self._name)]
        if origin == self._mailbox:
            if origins_number == wait.number and earliest >= wait.deadline:
                wait.circle = circle
        elif self._mailbox not in visited:
            self._send(wait, (origin, origins_number, min(earliest, wait.deadline), circle, [*visited, self._mailbox]))
            wait.next_probe = min(wait.next_probe, time.monotonic() + self.PATIENCE)

    def _send(self, wait: Wait, probe: tuple[Any, ...]) -> None:
        body = pickle.dumps((probe, self._name, wait.asker, wait.number))
        if _wire.HEADER_SIZE + len(body) <= _wire.MAX_FRAME:
            # Where there is no room the next one may find some. The way may be closed for messages already.
            _wire.write_now(wait.way.file, _wire.frame(_wire.PROBE, b"", body))

    def _owes(self, asker: bytes, number: int) -> str | None:
        """What this actor can't give while it waits: the reply to an ask that is here, unanswered, or its end."""
        if number == _END:
            return "the end"
        if self.is_closing:
            return None
        head = _wire.ASK_HEAD.pack(number, len(asker)) + asker
        for kind, body in self._inbox.unfinished():
            if kind & _wire.KIND == _wire.ASK and body.startswith(head):
                return f"{method_of(self._mailbox, kind, body)}()"
        return None
