"""Who receives for an actor while one of its methods waits for what pactor does not know of.

A method may wait for a thread of its own, in ``Thread.join``, a lock, or `concurrent.futures.wait`, and that thread for
somebody who waits for room in this actor's mailbox, or for room there itself. Then nobody would go on. So whatever
waits in pactor in another thread of an actor looks now and then whether the actor's own is held up, and then receives
in its place.

The actor's thread takes no lock before it receives, as each message would cost one. Instead it notes when it calls a
method, and when it is back, and looks then whether somebody stands in. Who does takes the lock, says so, and receives
only if the thread is still away. So either he sees that the thread is back, or it sees that it is to wait for the lock.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._inbox import Inbox
    from ._waiting import Poll

#: How often a waiting thread looks, and how long a method has to wait until it is stood in for, in seconds.
_LOOK_AGAIN = 0.05
#: A method that uses so much of a processor does not wait, but compute: its senders are not to overtake it.
_BUSY = 0.5


def _clock() -> int | None:
    """The clock of the processor time that this thread uses, where there is one."""
    get = getattr(time, "pthread_getcpuclockid", None)
    return get(threading.get_ident()) if get else None


class StandIn:
    """Receives from ``fifo``, by ``pull``, in other threads than the one that makes this: a reader, see _waiting.

    ``call`` has that thread, when it is back, call `come_back`.
    """

    def __init__(self, inbox: Inbox, fifo: int, pull: Callable[[], object], call: Callable[[], None]) -> None:
        self._inbox = inbox
        self._fifo = fifo
        self._pull = pull
        self._call = call
        self._thread = threading.get_ident()
        #: Whether that thread is in a method.
        self.is_away = False
        self._waits = 0  # how often it waits in there, and receives itself
        self._stood_in = False
        self._lock = threading.RLock()
        self._clock = _clock()
        self._seen = -1
        self._since = self._looked = self._used = 0.0

    # For the actor's own thread.

    def come_back(self) -> None:
        """Behind a method, where it is noted already, and before anything else is done with the inbox."""
        if self._stood_in:
            with self._lock:
                self._stood_in = False

    def keep_out(self) -> None:
        """In a method, where this thread is about to receive."""
        self._waits += 1
        with self._lock:
            pass

    def let_in(self) -> None:
        self._waits -= 1

    def leave(self) -> None:
        """Outside of all methods: an exception may have come before a `come_back`, or a `let_in`."""
        self.is_away = False
        self._waits = 0

    def forget_threads(self) -> None:
        """In a forked child: one of the parent's may have had the lock."""
        self._lock = threading.RLock()

    # For the others.

    def claim(self) -> bool:
        return threading.get_ident() != self._thread

    def register(self, poll: Poll) -> float:
        place, now, used = self._away_at(), time.monotonic(), time.clock_gettime(self._clock) if self._clock else 0.0
        is_busy = used - self._used > _BUSY * (now - self._looked)
        self._looked, self._used = now, used
        if is_busy or place != self._seen:
            self._seen, self._since = place, now
        elif place >= 0 and now - self._since >= _LOOK_AGAIN:
            poll.register(self._fifo, select.POLLIN)
        return _LOOK_AGAIN

    def read(self, fd: int) -> None:
        if fd == self._fifo and self._lock.acquire(blocking=False):
            try:
                self._stood_in = True
                self._call()
                if self._away_at() >= 0:
                    self._pull()
            except OSError:  # no room for more; what waits here has nothing to do with it
                self._seen = -1
            finally:
                self._lock.release()

    def release(self) -> None:
        pass

    def _away_at(self) -> int:
        """Where in the inbox the message is in whose method the thread is; -1 where it is not, or receives itself."""
        return self._inbox.place if self.is_away and not self._waits else -1
