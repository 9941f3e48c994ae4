"""The Actor: what the process that made it holds of it. This is where to begin to read.

An actor is a process of its own (`_loop`) that reads a mailbox (`_mailbox`). Proxies (`_proxy`) write to the mailbox,
from any process; asks get their replies back through futures (`_future`).
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from . import _channel, _current, _dead_letters, _ending, _inbox, _owned, _process, _proxy, _target, _waiting, _wire
from ._enqueue import check_injectable
from ._errors import ActorError

if TYPE_CHECKING:
    import functools
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext
    from types import TracebackType

    from typing_extensions import Self

    from ._supervisor import Restart

T = TypeVar("T")

#: How long a process may take from the end of its mailbox to its own, in seconds, to be asked for its exit code.
_GONE = 1.0
_INTERRUPT_AGAIN = 0.2
#: How long a supervisor may take to start the actor's process, in seconds, to be asked for its id.
_STARTED = 10.0

#: How many messages an actor with coroutines executes at once where nothing else is said.
_CONCURRENCY = 1_000

_numbers: dict[str, itertools.count[int]] = {}


class Actor(Generic[T]):
    """Runs an object in a process of its own, and passes it messages::

        with Actor(Counter(10)) as counter:
            counter.proxy.add(5)                               # a message; returns None at once
            print(ask(counter.proxy.total).result(timeout=5))  # 15

    ``target`` is the object, which is pickled into its process; or its class, or a `functools.partial` of its class,
    called there. ``name`` is for people; by default it is made from the class, as in ``Counter-1``. ``maxsize`` is the
    number of messages in the mailbox from which on its senders wait; 0 for no bound but the system's: senders outside
    of actors wait when about 64 KB are unread. ``on_failure`` is what to do when a method raises and nobody waits for
    its reply: ``"resume"`` logs it and goes on with the next message, ``"stop"`` logs it and ends the actor, and a
    `Restart` restarts the actor, also when its process dies. ``concurrency`` is how many messages an actor with
    `async def` methods executes at once, 1,000 by default; give it where decorators hide that they are. ``context`` is
    a context of multiprocessing, for another start method than the default.

    Raises TypeError or ValueError for arguments that can't be right, what pickling the target raises, and OSError
    where the system has no room for another process. What the target raises in its process is told by the first ask.

    Names that the Actor does not have itself are looked up in its proxy: ``counter.add(5)``.

    The process that made an actor owns it: it alone can close it. It does so at its exit, for those that are still
    open, the newest first, and waits for them. An actor ends also when its owner is killed.
    """

    @overload
    def __init__(
        self,
        target: type[T] | functools.partial[T],
        /,
        *,
        name: str | None = None,
        maxsize: int = 0,
        on_failure: Literal["resume", "stop"] | Restart = "resume",
        concurrency: int | None = None,
        context: BaseContext | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        target: T,
        /,
        *,
        name: str | None = None,
        maxsize: int = 0,
        on_failure: Literal["resume", "stop"] | Restart = "resume",
        concurrency: int | None = None,
        context: BaseContext | None = None,
    ) -> None: ...

    def __init__(
        self,
        target: Any,
        /,
        *,
        name: str | None = None,
        maxsize: int = 0,
        on_failure: Literal["resume", "stop"] | Restart = "resume",
        concurrency: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        cls = _proxy.wrapped_class(target)
        check_injectable(cls)
        _check(name, maxsize, on_failure, context)
        concurrency = _concurrency(cls, concurrency)
        from ._mailbox import pickled_here  # not before it is needed, see pactor/__init__.py

        start: Any = context or multiprocessing
        self._name = name or f"{cls.__name__}-{next(_numbers.setdefault(cls.__name__, itertools.count(1)))}"
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._closed = self._interrupted = self._killed = self._is_buried = False
        self._last_pid = 0
        with pickled_here() as self._held:  # the target's mailboxes, until its process has them, and those after it
            self._make(start, cls, target, maxsize, on_failure, concurrency)

    def _make(
        self, start: Any, cls: type, target: object, maxsize: int, on_failure: str | Restart, concurrency: int
    ) -> None:
        arguments: tuple[Any, ...] = ([_target.packed(target)], on_failure, self._owner, concurrency)
        method = start.get_start_method()
        self._is_served = method == "forkserver"
        _start_helpers(method)
        _finish_imports(method)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # No actor is half made, and its process starts with SIGINT blocked until it can end in silence.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which raises what came just before
            if isinstance(on_failure, str):
                self._supervisor: Connection | None = None
                self._start(start, cls, maxsize, _process.main, arguments)
            else:
                from ._supervisor import main

                commands, self._supervisor = start.Pipe(duplex=False)
                with commands:
                    arguments += (method, commands, self._supervisor)
                    self._start(start, cls, maxsize, main, arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(
        self, start: Any, cls: type, maxsize: int, main: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        from ._mailbox import Mailbox

        self._mailbox = Mailbox.for_actor(maxsize)
        self._process = start.Process(
            target=main, args=(self._mailbox, self._name, *arguments), name=self._name, daemon=False
        )
        try:
            self._way = _channel.channel(self._mailbox.directory, self._name)
            self._way.open()
            self._way.find_ending = self._find_ending
            try:
                self._mailbox.bequeath(self._process.start)
            except (EOFError, ConnectionError) as error:
                text = "the fork server ended: it could not start a process; stderr may say why"
                raise OSError(text) from error
            if not self._supervisor:
                _inbox.set_reader(f"{self._mailbox.directory}/inbox", self._process.pid)
            self._proxy: Any = _proxy.make(cls, self._way)
            _owned.add(self)
        except BaseException:
            if self._process.pid is not None:
                self._process.kill()
                self._process.join()
            self._mailbox.remove()
            raise

    @property
    def proxy(self) -> T:
        """Has the methods of the wrapped class; calling one sends a message. Pass it to whom you like."""
        proxy: T = self._proxy
        return proxy

    @property
    def name(self) -> str:
        """What it is called in errors and in the log, and its process in lists of them."""
        return self._name

    @property
    def pid(self) -> int:
        """The id of its process; of one that is restarted, the latest."""
        if self._supervisor is None:
            pid: int = self._process.pid
            return pid
        deadline = time.monotonic() + _STARTED
        while not (found := _inbox.reader(f"{self._mailbox.directory}/inbox")):
            if self.exitcode is not None or time.monotonic() > deadline:
                return self._last_pid or self._process.pid
            time.sleep(0.001)
        return found

    @property
    def exitcode(self) -> int | None:
        """As in `multiprocessing.Process`: None while it runs, -N where signal N killed it."""
        with self._lock:  # Process.exitcode is not made for several threads
            exitcode: int | None = self._process.exitcode
        # The fork server says how a process ended; without it, multiprocessing takes it for ended, with this code.
        return None if exitcode == 255 and not _waiting.has_ended(self._process.pid) else exitcode

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return not self.join(timeout=0)

    def close(self) -> None:
        """Has the actor end when it has executed what is queued now. Returns at once; more calls do nothing.

        From here on, sending to it raises ActorClosed; in other processes, at the latest when it has ended. Raises
        ActorError in another process than the owner.
        """
        self._check_owner()
        if self._closed:
            return
        if self._supervisor:
            self._signal(0)  # first: behind the CLOSE it may be gone, and SIGPIPE end a program that does not ignore it
        with contextlib.suppress(ActorError):
            end = _wire.frame(_wire.CLOSE, b"", b"")
            if not self._way.try_send(end):
                # Too much to read for one more frame. The reader finds the word when it reads on, or before it sleeps;
                # if it has just looked for the last time, there is room now.
                _inbox.close_when_read(f"{self._mailbox.directory}/inbox")
                self._way.try_send(end)
        self._way.end(_ending.CLOSED)
        self._closed = True  # last: what an exception of a signal handler interrupts can be done again

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the process has ended, for at most ``timeout`` seconds; returns whether it has.

        Replies that it still sends are received meanwhile. Raises ActorError in another process than the owner.
        """
        self._check_owner()
        deadline = _waiting.deadline_in(timeout)
        with contextlib.ExitStack() as stack:
            # Before the look, as another thread could reap it in between.
            fd = _waiting.open_process(self._process.pid)  # a supervisor's: its actor's end is not the end
            if fd is None:
                fd = self._process.sentinel  # which what it has forked keeps open
            else:
                stack.callback(os.close, fd)
            if self.exitcode is None:
                if deadlocks := _current.deadlocks():
                    stack.enter_context(deadlocks.joining(self._way, deadline))
                if not _waiting.wait(fd, select.POLLIN, deadline):
                    return False
        self._reap()
        # Asks that it leaves open end now, whoever waits for them: each keeps the way to it open.
        _waiting.wait(None, 0, deadline=0)
        return True

    def kill(self) -> None:
        """Ends the process at once, with SIGKILL, also one that would be restarted. What is queued is lost.

        Raises ActorError in another process than the owner.
        """
        self._check_owner()
        self._killed = True
        self._signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked child leaves the block too
        self._see_off(kind is not None and issubclass(kind, KeyboardInterrupt))

    def __getattr__(self, name: str) -> Any:
        if "_proxy" not in self.__dict__:  # half made
            raise AttributeError(name)
        return getattr(self._proxy, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *dir(self._proxy)]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}, process {self.pid}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"the Actor {self._name!r} belongs to the process that made it; send its .proxy instead")

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise ActorError(f"the Actor {self._name!r} belongs to process {self._owner}, which made it")

    def _signal(self, number: int) -> None:
        """Sends the actor's process a signal; 0 is but word that the actor is closed."""
        with self._lock:  # nobody reaps it in between
            if self._is_buried or self.exitcode is not None:
                return
            if self._supervisor is None:
                with contextlib.suppress(ProcessLookupError):  # a fork server reaps its processes itself
                    os.kill(self._process.pid, number)
            else:
                with contextlib.suppress(BrokenPipeError):  # it is about to end
                    os.write(self._supervisor.fileno(), bytes([number]))

    def _see_off(self, interrupted: bool) -> None:
        """Closes it and waits for its end; after Ctrl-C, not for that of long methods, and what it leaves is no news.

        It may have been hit before it could end in silence: a fork server starts processes with SIGINT unblocked.
        """
        self._interrupted = interrupted
        self.close()
        # The actor had a SIGINT too, but Python notices one that comes right before a sleep only behind it.
        while not self.join(_INTERRUPT_AGAIN if interrupted else None):
            self._signal(signal.SIGINT)

    def _reap(self) -> None:
        with self._lock:
            self._process.join()
            self._bury()

    def _bury(self) -> None:
        """Notes how it ended, once it has, and removes its mailbox."""
        if not _owned.remove(self):
            return
        self._is_buried = True
        self._held.clear()
        mailbox = self._mailbox.directory
        self._last_pid = _inbox.reader(f"{mailbox}/inbox")
        ending = self._find_ending(mailbox)
        self._way.end(ending)
        self._way.find_ending = lambda _: ending  # what is left of the mailbox may not tell
        with contextlib.suppress(OSError):  # no room for a note, no descriptor, or no such place any more
            if ending.closed:
                self._mailbox.remove()
            else:
                _ending.leave(mailbox, ending)
        if self._supervisor:
            self._supervisor.close()

    def _find_ending(self, mailbox: str) -> _ending.Ending:
        """How it ended, once its mailbox has no reader: the process is gone or about to go."""
        if note := _ending.read(mailbox):
            return note
        deadline = time.monotonic() + _GONE
        # Not by Process.join: what it waits on, a child that the actor forked may hold.
        is_lost = False
        while (exitcode := self.exitcode) is None and not is_lost:
            if time.monotonic() > deadline:
                return _ending.UNKNOWN
            time.sleep(0.001)
            # A fork server tells later. Of this process's own child, nobody tells what another has reaped.
            is_lost = not self._is_served and _waiting.has_ended(self._process.pid)
        with self._lock:
            if note := _ending.read(mailbox):
                return note
            if self._closed and _ending.found_no_room(exitcode, mailbox):
                ending = _ending.CLOSED
            elif self._supervisor:
                ending = _ending.of_supervisor(exitcode, self._process.pid)
            else:
                ending = _ending.of_exit(exitcode, self._process.pid, mailbox)
            with contextlib.suppress(OSError):
                _ending.write(mailbox, ending)  # for the others, who can't see that
                if not self._supervisor and not self._interrupted:
                    text = f"actor {self._name!r} {ending.reason}"
                    _dead_letters.bury_killed(mailbox, text, failed=ending.failed and not self._killed)
        return ending


def _check(name: str | None, maxsize: int, on_failure: object, context: object) -> None:
    if not isinstance(name, (str, type(None))):
        raise TypeError(f"the name must be a str, not {name!r}")
    if context is not None and not hasattr(context, "get_start_method"):
        raise TypeError(f"the context must be one of multiprocessing, as get_context() returns, not {context!r}")
    if not isinstance(maxsize, int):
        raise TypeError(f"maxsize must be an int, not {maxsize!r}")
    if maxsize < 0:
        raise ValueError(f"maxsize must be 0, for no bound, or more, not {maxsize}")
    if isinstance(on_failure, str):
        if on_failure not in ("resume", "stop"):
            raise ValueError(f'on_failure must be "resume", "stop" or a Restart, not {on_failure!r}')
        return
    from ._supervisor import Restart

    if not isinstance(on_failure, Restart):
        raise TypeError(f'on_failure must be "resume", "stop" or a Restart, not {on_failure!r}')


def _concurrency(cls: type, concurrency: int | None) -> int:
    """How many messages may run at once, where methods are coroutines; 0 where none is."""
    import inspect

    if not isinstance(concurrency, (int, type(None))):
        raise TypeError(f"concurrency must be an int, not {concurrency!r}")
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
    is_async = any(inspect.iscoroutinefunction(getattr(cls, name, None)) for name in dir(cls))
    return concurrency or (_CONCURRENCY if is_async else 0)


def _finish_imports(method: str) -> None:
    """Before a fork: for what another thread is importing just then, the child would wait for ever.

    It inherits the lock of an import, but not the thread that has it.
    """
    if method == "fork" and threading.active_count() > 1:
        from . import _replies, _supervisor  # noqa: F401

        if "asyncio" in sys.modules:
            from . import _awaiting  # noqa: F401


def _start_helpers(method: str) -> None:
    """Starts what multiprocessing keeps running: later, it would unblock SIGINT, or keep it blocked."""
    if method != "fork":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
    if method == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()
