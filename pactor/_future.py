"""The reply to an ask, some time. How it comes is told in `_replies`."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ._channel import Channel
    from ._replies import Replies

R = TypeVar("R")

# As in concurrent.futures._base, whose states have no public name.
PENDING, FINISHED = "PENDING", "FINISHED"


class Future(concurrent.futures.Future[R]):
    """The reply to an ask, some time: a `concurrent.futures.Future`.

    It can be awaited. `result`, `exception`, callbacks, `concurrent.futures.wait` and ``as_completed`` do what they do
    there. `cancel` gives up waiting; the actor executes the message all the same, and its reply is dropped.
    """

    # Whoever is first to claim the decision decides: a reply, or cancel. That needs no lock, and the condition, which
    # costs as much as all the rest, is made when somebody wants to wait for it. He makes it first and then looks at the
    # state under it; where there is one, the state changes under it: `concurrent.futures.wait` counts what it is told.

    def __init__(self, replies: Replies, number: int, way: Channel) -> None:
        self._state = PENDING
        self._result = None
        self._exception = None
        self._done_callbacks: list[Callable[[concurrent.futures.Future[R]], object]] = []
        self._replies = replies
        self._number = number
        self._way = way

    @functools.cached_property
    def _waiters(self) -> _Waiters:  # type: ignore[override]
        return _Waiters(self)

    @functools.cached_property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        condition: threading.Condition = self.__dict__.setdefault("_condition", threading.Condition())
        return condition

    def __reduce__(self) -> Any:
        raise TypeError("a Future belongs to the process that asked; a method may return one, and its result is sent")

    def result(self, timeout: float | None = None) -> R:
        """Waits for the reply and returns it; raises what the method raised.

        ``timeout`` is in seconds; None waits as long as the actor lives. Raises ActorClosed or ActorDied where it
        ended first, `concurrent.futures.TimeoutError` and ``CancelledError``.
        """
        if self._state == PENDING:
            self._replies.wait(self, timeout)
        if self._state != FINISHED:
            return super().result(0)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                del self  # or else the exception, its traceback and this frame keep each other
        return self._result  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the reply; returns what the method raised, or None."""
        if self._state == PENDING:
            self._replies.wait(self, timeout)
        return super().exception(0)

    def __await__(self) -> Generator[Any, None, R]:
        """Waits in a coroutine, where `result` would keep all of its event loop waiting::

            total = await ask(counter.proxy.total)

        That is for asyncio, and loops that take its place, as uvloop. Cancelling the task cancels the future.
        """
        if self._state != FINISHED:
            from . import _awaiting

            yield from _awaiting.wait(self)
        return self.result(0)

    def done(self) -> bool:
        """Whether the reply is there, or will not come."""
        if self._state == PENDING:
            self._replies.read_now()
        return self._state != PENDING  # not by its own, under whose lock a signal handler may come

    def cancel(self) -> bool:
        if self._claim("cancel"):
            super().cancel()
            self.set_running_or_notify_cancel()
            self._replies.forget(self._number)
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[R]], object]) -> None:
        self._when_done(fn)
        self._replies.help(self)

    def _when_done(self, fn: Callable[[concurrent.futures.Future[R]], object]) -> None:
        """The same for somebody who sees to it that replies are read."""
        super().add_done_callback(fn)

    def _claim(self, decision: str) -> bool:
        """Whether it is this that decides the future; of several threads, the first."""
        decided: str = self.__dict__.setdefault("_decided", decision)
        return decided == decision and self._state == PENDING

    def _finish(self, value: object, error: BaseException | None) -> None:
        """Decides the future, unless that has been done."""
        if not self._claim("reply"):
            return
        self._result, self._exception = value, error  # type: ignore[assignment]
        attributes = self.__dict__
        if "_condition" not in attributes:
            self._state = FINISHED
            if "_condition" not in attributes:
                return
        with self._condition:
            self._state = FINISHED
            mine = object()
            if attributes.setdefault("_told", mine) is not mine:
                return  # another thread has decided it at the same time
            for waiter in self._waiters:
                (waiter.add_result if error is None else waiter.add_exception)(self)
            self._condition.notify_all()
        self._replies.wake_followers(self)  # who may have to wait for nothing that a callback does
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
