"""Nobody waits without reading.

Two processes that wait for room in each other's mailboxes would wait for ever if neither read its own. So whoever
waits in pactor, for whatever, goes on reading what comes to its own process: an actor its mailbox, an asker its
replies. Both register here.

A wait that sleeps costs two trips to the scheduler, several times as much as a message. So `Patience` looks a while
before it sleeps, where the last wait was a short one.
"""

from __future__ import annotations

import os
import select
import selectors
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from ._lane import Lane


class Reader(Protocol):
    """Something that is to be read while its process waits."""

    def claim(self) -> bool:
        """Claims the right to read; False where another thread has it, or this one may not."""
        ...

    def register(self, poll: Poll) -> float | None:
        """Registers what is to be read. Called again after each `read`: it may be more by then.

        And after so many seconds, where it returns that.
        """
        ...

    def read(self, fd: int) -> object:
        """Reads what there is, without waiting; nothing, where the descriptor is not its own."""

    def release(self) -> None:
        """Gives the right back."""


readers: list[Reader] = []

# What a forked child inherits is its parent's to read.
os.register_at_fork(after_in_child=readers.clear)

#: What `select.poll` takes at most, 24 days: who has more time looks again.
_LONGEST = 2**31 - 1


def wait(fd: int | None, event: int, deadline: float | None) -> bool:
    """Waits until ``fd`` is ready for ``event`` (as in `select.poll`) or broken; False once ``deadline`` is past.

    Without ``fd``, for nothing but what the readers get.
    """
    claimed: list[Reader] = []
    try:
        for reader in readers:
            if reader.claim():
                claimed.append(reader)
        poll = select.poll()
        while True:
            until = register(claimed, poll, deadline)
            if fd is not None:
                poll.register(fd, event)  # behind those of the readers, who may have the same
            for ready, _ in poll.poll(milliseconds(until)):
                if ready == fd:
                    return True
                for reader in claimed:
                    reader.read(ready)
                poll.unregister(ready)  # whose it is registers it again, unless it has ended
            if deadline is not None and time.monotonic() >= deadline:
                return False
    finally:
        for reader in claimed:
            reader.release()


def register(claimed: list[Reader], poll: Poll, deadline: float | None) -> float | None:
    """Registers what the readers are to read; returns until when to wait at most."""
    for reader in claimed:
        if (again := reader.register(poll)) is not None:
            deadline = earlier(deadline, time.monotonic() + again)
    return deadline


def wait_for_room(fd: int, event: int, deadline: float | None, whose: str) -> bool:
    """The same for a sender, who is told where all of its event loop waits."""
    if running_loop() is not None and (deadline is None or time.monotonic() < deadline):
        import warnings

        frame, level = sys._getframe(), 1
        while frame.f_back and frame.f_globals.get("__package__") == __package__:
            frame, level = frame.f_back, level + 1
        text = f"no room in the mailbox of {whose!r}: the event loop stands still until there is; use await tell(...)"
        warnings.warn(text, RuntimeWarning, level)
    return wait(fd, event, deadline)


def running_loop() -> Any:
    """The event loop of asyncio that this thread is in; None where it is in none."""
    # While another thread imports it, it may not have everything yet.
    get = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    return get() if get else None


def is_ready(fd: int, event: int) -> bool:
    """Whether ``fd`` is ready for ``event``, or broken."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))


def has_ended(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    fd = open_process(pid)
    if fd is None:
        return not is_running(pid)
    try:
        return is_ready(fd, select.POLLIN)
    finally:
        os.close(fd)


class Bundle:
    """Like `select.poll`, and itself a descriptor: readable when something in it is ready.

    So an event loop, or another poll, can wait for all of it at once.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.RLock()  # a signal handler may register what its ask waits for

    def fileno(self) -> int:
        fd: int = self._selector.fileno()
        return fd

    def close(self) -> None:
        self._selector.close()

    def register(self, fd: int, events: int) -> None:
        """Where ``events`` is 0, only its end counts, which is always reported; not for the reading end of a pipe."""
        with self._lock:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
            self._selector.register(fd, selectors.EVENT_WRITE if events & select.POLLOUT else selectors.EVENT_READ)

    modify = register

    def unregister(self, fd: int) -> None:
        with self._lock:
            self._selector.unregister(fd)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """What is ready; ``timeout`` is in milliseconds."""
        seconds = None if timeout is None else timeout / 1000
        return [(key.fd, events) for key, events in self._selector.select(seconds)]


#: What a process waits with.
Poll: TypeAlias = "select.poll | Bundle"


#: What `Patience.wait` returns where there is something in the lane.
BY_LANE = [(-1, 0)]

#: Set where something large is sent or loaded: what this process awaits next is likely to be large too, and is copied
#: meanwhile. For one wait.
expects_large = False

#: To keep the processor from who gives way for so many seconds is long: more than most messages take, less than the
#: kernel's slice of time, which is 0.7 to 4 ms. And more than anybody looks, so that the look in which this happens is
#: the last.
SLICE = 0.5e-3
#: For how many seconds nobody in this process looks then, or yields to who has his frame: each time may cost a slice.
BUSY = 0.1
#: When that is over.
busy_until = 0.0


class Patience:
    """Looks a while before it sleeps, where the last wait was short: then the next one is likely to be short too.

    So a pause costs 0.1 ms of looking in vain, 0.25 where messages are large, if what comes before it comes close
    together; and else nothing.

    Between two looks it gives way. If somebody else then keeps the processor for long, each look may cost that much,
    while who sleeps has the processor back as soon as something comes. So for a while it sleeps at once.
    """

    #: A wait of so many seconds is short. To be woken takes 20 to 50 us of it.
    SHORT = 100e-6
    #: The same where something large is awaited.
    SHORT_FOR_LARGE = 250e-6

    def __init__(self) -> None:
        self.was_short = False

    def wait(self, poll: Poll, deadline: float | None, lane: Lane | None = None) -> list[tuple[int, int]]:
        """The events of ``poll``; waits for one until the deadline. BY_LANE where there is something in the lane."""
        global expects_large, busy_until
        now = time.monotonic
        moment = now()
        soon = moment + self.SHORT
        if expects_large:
            expects_large, soon = False, moment + self.SHORT_FOR_LARGE
        until = earlier(deadline, soon)
        events: list[tuple[int, int]] = []
        looks = self.was_short and moment >= busy_until
        if lane is not None:
            lane.look(looks)
        if looks:
            while not events and moment < until:
                if lane is not None:
                    if lane.has_come():
                        return BY_LANE
                    os.sched_yield()
                    if lane.has_come():
                        events = BY_LANE
                if not events:
                    events = poll.poll(0)
                    if not events:
                        os.sched_yield()
                before, moment = moment, now()
                if moment - before > SLICE:
                    busy_until = moment + BUSY
            if events is BY_LANE:  # and so looks again, or says that it does not
                return events
            if lane is not None:
                lane.look(False)
        if not events:
            events = poll.poll(milliseconds(deadline))
            self.was_short = bool(events) and now() < soon
        return events


def milliseconds(deadline: float | None) -> float | None:
    """What `select.poll` wants: the time left, rounded up, so that nobody wakes too early and spins."""
    if deadline is None:
        return None
    return min(max(0.0, (deadline - time.monotonic()) * 1000), _LONGEST)


def earlier(deadline: float | None, moment: float) -> float:
    """The earlier one of a deadline, which None is never, and a moment."""
    return moment if deadline is None else min(deadline, moment)


def deadline_in(timeout: float | None) -> float | None:
    """The moment on the monotonic clock that is ``timeout`` seconds from now; None for never."""
    if timeout is not None and timeout != timeout:
        raise ValueError("the timeout is no number of seconds: nan")
    return None if timeout is None or timeout > threading.TIMEOUT_MAX else time.monotonic() + timeout


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def open_process(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, where the system has such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
