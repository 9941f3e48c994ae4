"""The loop of an actor whose class has `async def` methods: an event loop of asyncio, in the actor's only thread.

Rules:

1. One coroutine, the driver, takes the messages. It executes a plain method as any actor does, and nothing else runs
   meanwhile. An `async def` method becomes a task, and the driver takes the next message when that task has come to
   its first await: so messages begin in the order of their arrival.
2. While as many tasks run as are allowed, the driver takes no message, and the mailbox fills up.
3. A close waits for the tasks; all other ends cancel them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import os
import select
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from . import _ending, _waiting
from ._log import log
from ._loop import LOOK_UP, Loop, Stop

#: How long plain messages in a row may keep the tasks from running, in seconds.
_TURN = 0.001
#: How long what is cancelled may take to end, in seconds.
_CANCELLED = 5.0


class AsyncLoop(Loop):
    """Receives the messages of one actor, and starts them; at most ``concurrency`` of them run at once."""

    make_poll = _waiting.Bundle

    def __init__(self, *args: Any, concurrency: int) -> None:
        self._aio = asyncio.new_event_loop()
        super().__init__(*args)
        assert isinstance(self.poll, _waiting.Bundle)
        self._poll_fd = self.poll.fileno()
        self._concurrency = concurrency
        self._driver: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._has_started = False  # a task, by the message that was taken last
        self._stop: Stop | None = None
        self._stopping = False
        self._bell: asyncio.Future[None] | None = None
        self._listens = False

    def run(self) -> None:
        """Executes messages until the end; raises Stop."""
        self._driver = self._aio.create_task(self._drive())
        try:
            self._aio.run_until_complete(self._driver)
        except RuntimeError:  # it was stopped in a child, into which a method had forked
            if self._forked:
                self._leave(0)
            raise

    def stop(self) -> None:
        if not self._forked:
            self._stopping = True
            self._cancel(task for task in (self._driver, *self._tasks) if task)
        super().stop()

    def end(self, ending: _ending.Ending) -> None:
        if not self._forked:
            # What methods have left to run beside them; of themselves, those that go on have had their time.
            self._cancel(asyncio.all_tasks(self._aio) - self._tasks)
            self._aio.run_until_complete(self._aio.shutdown_asyncgens())
            self._aio.close()
        super().end(ending)

    def wake(self) -> None:
        self._attention = True
        if threading.get_ident() == self.thread:
            self._ring()
        else:
            self._nudge()

    async def _drive(self) -> None:
        inbox, now = self._inbox, time.monotonic
        turn = look_up = now()
        while True:
            if self._attention or self._timers:
                self._attend()
            if len(self._tasks) >= self._concurrency:
                self.poll.unregister(self._fifo)
                await self._idle()
                self.poll.register(self._fifo, select.POLLIN)
                continue
            body = inbox.take()
            if body is None:
                await self._idle()
                continue
            self._receive(inbox.kind, body)
            if self._closing:
                break
            if self._has_started:
                self._has_started = False
                await asyncio.sleep(0)
                inbox.finish()
            elif now() > turn:
                inbox.finish()
                await asyncio.sleep(0)
                turn = now() + _TURN
            if now() > look_up:
                self._look_up()
                look_up = now() + LOOK_UP
        self._answers.refuse(inbox)
        while self._tasks or self._answers.owed:
            await self._idle()
        raise Stop(_ending.CLOSED, 0)

    async def _idle(self) -> None:
        """Waits for something to do."""
        if not self._attention:
            deadline = self._deadline()
            self._bell = self._aio.create_future()
            timer = None if deadline is None else self._aio.call_at(deadline, self._ring)
            if not self._listens:
                self._listens = True
                self._aio.add_reader(self._poll_fd, self._notice_poll)
            try:
                await self._bell
            finally:
                self._bell = None
                if timer:
                    timer.cancel()
        self._heed(self.poll.poll(0))

    def _ring(self) -> None:
        """Ends the driver's wait."""
        if self._bell and not self._bell.done():
            self._bell.set_result(None)

    def _notice_poll(self) -> None:
        if self._bell:
            self._ring()
        else:  # the driver has other things to do than to look what came
            self._listens = False
            self._aio.remove_reader(self._poll_fd)

    def _nudge(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._aio.call_soon_threadsafe(self._ring)

    def _attend(self) -> None:
        if self._stop:
            raise self._stop
        super()._attend()

    def _told(self, name: str, value: object) -> None:
        if inspect.iscoroutine(value):
            self._start(name, value, False)

    def _answered(self, asker: bytes, number: int, name: str, value: object) -> None:
        if inspect.isawaitable(value) and not isinstance(value, concurrent.futures.Future):
            task: Any = self._start(name, value, True)
            self._answers.later(asker, number, name, task)
        else:
            super()._answered(asker, number, name, value)

    def _close(self) -> None:
        self._closing = True

    def _start(self, name: str, awaitable: Awaitable[Any], is_asked: bool) -> asyncio.Task[Any]:
        task = self._aio.create_task(self._execute(name, awaitable, is_asked), name=f"{name}()")
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        self._has_started = True
        return task

    async def _execute(self, name: str, awaitable: Awaitable[Any], is_asked: bool) -> Any:
        try:
            return await awaitable
        except BaseException as error:
            if is_asked and not isinstance(error, SystemExit):
                raise
            if self._stopping and isinstance(error, asyncio.CancelledError):
                raise
            try:
                self._failed(name, error)
            except Stop as stop:
                self._stop = stop
                self.wake()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._ring()

    def _call(self, method: Callable[[], object]) -> None:
        async def call() -> None:
            value = method()
            if inspect.isawaitable(value):
                await value

        self._aio.run_until_complete(call())

    def _cancel(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Cancels tasks, and waits until they have ended, but not for ever."""
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            _, going_on = self._aio.run_until_complete(asyncio.wait(running, timeout=_CANCELLED))
            if going_on:
                names = ", ".join(task.get_name() for task in going_on)
                log.error("actor %r (process %d): cancelled, and did not end: %s", self._name, os.getpid(), names)
        for task in running:
            if task.done() and not task.cancelled():
                task.exception()  # nobody else looks at it, of which asyncio would complain

    def _note_fork(self) -> None:
        super()._note_fork()
        self._aio.stop()
