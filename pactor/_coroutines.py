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
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from . import _ending, _lane, _waiting
from ._log import log
from ._loop import LOOK_UP, Loop, Stop

#: How long plain messages in a row may keep the tasks from running, in seconds.
_TURN = 0.001
#: How much an actor receives while as many coroutines run as may, in bytes; then its senders wait.
_READ_AHEAD = 1 << 20
#: How long what is cancelled may take to end, in seconds.
_CANCELLED = 5.0
#: The same after Ctrl-C, which may have come in the event loop itself, between two lines: then a task waits for ever.
_INTERRUPTED = 0.5


class AsyncLoop(Loop):
    """Receives the messages of one actor, and starts them; at most ``concurrency`` of them run at once."""

    make_poll = _waiting.Bundle

    def __init__(self, *args: Any, concurrency: int) -> None:
        self._aio = asyncio.new_event_loop()
        super().__init__(*args)
        _lane.refuse(self._mailbox.directory)
        assert isinstance(self.poll, _waiting.Bundle)
        self._poll_fd = self.poll.fileno()
        self._turn_behind_signals()
        self._concurrency = concurrency
        self._driver: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._began_task = False  # by the message that was taken last
        self._stop: Stop | None = None
        self._stopping = False
        self._time_to_end = _CANCELLED
        self._most_unread = 0
        self._bell: asyncio.Future[None] | None = None
        self._listens = False
        self._is_ahead = False  # waits while no message may begin

    def run(self) -> None:
        """Executes messages until the end; raises Stop."""
        self._turn_behind_signals()  # again: the wrapped object may have run another event loop when it was made
        while True:
            if self._driver is None or self._driver.done():
                self._driver = self._aio.create_task(self._drive())
            try:
                self._aio.run_until_complete(self._driver)
            except KeyboardInterrupt:
                self._time_to_end = _INTERRUPTED
                raise
            except SystemExit as error:
                self._exit("a task of its event loop", error)
            except (asyncio.CancelledError, RuntimeError):
                # A method cancelled all tasks, or stopped the loop, which goes on. Or this is a child that was forked.
                if self._forked:
                    self._leave(0)
                if self._driver.done() and not self._driver.cancelled():
                    raise

    def stop(self) -> None:
        if self._forked:
            self._leave(1)
        self._answers.finish()
        self._stopping = True
        self._most_unread = self._inbox.unread + _READ_AHEAD
        if not self._deaf:
            self._aio.add_reader(self._fifo, self._read_on)
        try:
            self._cancel(task for task in (self._driver, *self._tasks) if task)
        finally:
            try:
                super().stop()
            finally:
                self._aio.remove_reader(self._fifo)

    def _read_on(self) -> None:
        """Where there is no driver any more: on whom it waits now may wait for room, but is not to flood it."""
        self.read(self._fifo)
        if self._deaf or self._inbox.unread > self._most_unread:
            self._aio.remove_reader(self._fifo)

    def end(self, ending: _ending.Ending) -> None:
        if self._forked:
            self._leave(1)
        # What methods have left to run beside them; of themselves, those that go on have had their time.
        self._cancel(asyncio.all_tasks(self._aio) - self._tasks)
        self._wait_for({self._aio.create_task(self._aio.shutdown_asyncgens())})
        signal.set_wakeup_fd(-1)  # before the loop closes it
        self._aio.close()
        super().end(ending)

    def read(self, fd: int) -> None:
        super().read(fd)
        self._ring()  # what has come is not for whoever waits in here

    def wake(self) -> None:
        self._attention = True
        if threading.get_ident() == self.thread:
            self._ring()
        else:
            self._nudge()

    async def _drive(self) -> None:
        inbox, now = self._inbox, time.monotonic
        turn = look_up = now()
        while not self._closing:
            if self._attention or self._timers:
                self._attend()
            if len(self._tasks) >= self._concurrency:
                await self._idle_ahead()
                continue
            body = inbox.take()
            if body is None:
                await self._idle()
                continue
            self._receive(inbox.kind, body)
            if self._closing:
                break
            if self._forked:
                self._leave(0)  # the inbox is the parent's
            if self._began_task:
                self._began_task = False
                await asyncio.sleep(0)
                inbox.finish()
            elif now() > turn:
                inbox.finish()
                await asyncio.sleep(0)
                turn = now() + _TURN
            if now() > look_up:
                self._look_up()
                look_up = now() + LOOK_UP
        while self._tasks or self._answers.owed:
            await self._idle()
        raise Stop(_ending.CLOSED, 0)

    async def _idle(self) -> None:
        """Waits for something to do."""
        self._stand_in.leave()
        if self._inbox.is_to_close and not (self._deaf or self._is_ahead):  # as in any loop
            self._pull()
            return
        if not self._attention:
            deadline = self._deadline()
            self._bell = self._aio.create_future()
            if self._is_due():  # a signal handler came before this line, and found no bell
                self._ring()
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

    async def _idle_ahead(self) -> None:
        """The same while no message may begin: some are received, in case that what runs waits for their senders."""
        self._is_ahead = True
        self._reads_ahead = self._inbox.unread < _READ_AHEAD
        if not self._reads_ahead:
            self.poll.unregister(self._fifo)
        try:
            await self._idle()
        finally:
            if not self._reads_ahead:
                self.poll.register(self._fifo, select.POLLIN)
            self._is_ahead = self._reads_ahead = False

    def _turn_behind_signals(self) -> None:
        """Has the event loop look for what is ready behind each signal handler, also one that it does not know.

        It sleeps on otherwise. To have a handler of its own sets it up for all signals; this one is ignored by default.
        """
        with contextlib.suppress(NotImplementedError):  # by a policy's event loop
            self._aio.add_signal_handler(signal.SIGURG, lambda: None)
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)  # many come to a method that is busy

    def _is_due(self) -> bool:
        return self._attention or (not self._is_ahead and super()._is_due())

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
        if value is not None and isinstance(value, Coroutine):  # of whatever type
            self._start(name, value, False)
        else:
            super()._told(name, value)

    def _answered(self, asker: bytes, number: int, name: str, value: object) -> None:
        if inspect.isawaitable(value) and not isinstance(value, concurrent.futures.Future):
            task: Any = self._start(name, value, True)
            self._answers.later(asker, number, name, task)
        else:
            super()._answered(asker, number, name, value)

    def _close(self) -> None:
        """Leaves it to the driver, which sees that it is closing."""

    def _start(self, name: str, awaitable: Awaitable[Any], is_asked: bool) -> asyncio.Task[Any]:
        task = self._aio.create_task(self._execute(name, awaitable, is_asked), name=f"{name}()")
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        self._began_task = True
        return task

    async def _execute(self, name: str, awaitable: Awaitable[Any], is_asked: bool) -> Any:
        try:
            value = await awaitable
            if not is_asked:
                super()._told(name, value)
            return value
        except BaseException as error:
            if is_asked and not isinstance(error, SystemExit):
                raise
            if self._stopping and isinstance(error, asyncio.CancelledError):
                raise
            try:
                self._failed(name, error)
            except Stop as stop:
                if self._stopping:
                    return None  # it ends already
                self._stop = stop
                self.wake()
                await self._aio.create_future()  # no reply: who asked learns of the end, for which this is cancelled

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._ring()
        _retrieve(task)

    def _call(self, method: Callable[[], object]) -> None:
        async def call() -> None:
            value = self._called(method)
            if inspect.isawaitable(value):
                await value

        if self._stopping:
            self._aio.run_until_complete(call())
        else:
            self._aio.run_until_complete(self._supervise(self._aio.create_task(call())))

    async def _supervise(self, task: asyncio.Task[None]) -> None:
        """Waits for what runs before the first message; raises Stop where the actor is to end before."""
        task.add_done_callback(lambda _: self._ring())
        while not task.done():
            await self._idle_ahead()
        await task

    def _cancel(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Cancels tasks, and waits until they have ended, but not for ever."""
        tasks = {*tasks}
        for task in tasks:
            task.cancel()
        self._wait_for(tasks)

    def _wait_for(self, tasks: set[asyncio.Task[Any]]) -> None:
        running = {task for task in tasks if not task.done()}
        deadline = time.monotonic() + self._time_to_end
        while running and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(RuntimeError, SystemExit):  # of one that stops the loop, or exits: it does anyway
                self._aio.run_until_complete(asyncio.wait(running, timeout=left))
            if self._forked:
                self._leave(0)
            if self._aio.is_closed():
                break
            running = {task for task in running if not task.done()}
        for task in running:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own word on this
        if running and self._time_to_end == _CANCELLED:
            names = ", ".join(task.get_name() for task in running)
            log.error("actor %r (process %d): cancelled, and did not end: %s", self._name, os.getpid(), names)
        for task in tasks - running:
            _retrieve(task)

    def _note_fork(self) -> None:
        super()._note_fork()
        signal.set_wakeup_fd(-1)  # or else the parent would hear of the child's signals
        self._aio.stop()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Looks at the exception of a task that has ended: asyncio complains of those that nobody looked at."""
    if not task.cancelled():
        task.exception()
