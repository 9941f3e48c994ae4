"""An actor's process from its start to its end, and the signals that it gets."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from . import _ending, _owned
from ._ending import Ending
from ._log import log
from ._loop import Loop, Stop
from ._telling import said

if TYPE_CHECKING:
    from ._mailbox import Mailbox


#: The handler of SIGTERM that is this process's alone, and the one before.
_sigterm: tuple[Callable[..., object], Any] | None = None


def main(mailbox: Mailbox[Any], name: str, target: list[object], on_failure: str, owner: int, concurrency: int) -> None:
    """What an actor's process does from its start to its end; ``concurrency`` is 0 where no method is a coroutine.

    The target is taken out of its list, which others keep: once it is loaded, its pickle is to be gone.
    """
    ending, exitcode = _ending.CLOSED, 0
    signal.set_wakeup_fd(-1)  # a forked process has its parent's, which would hear of its signals
    try:
        if concurrency:
            from ._coroutines import AsyncLoop

            loop: Loop = AsyncLoop(mailbox, name, on_failure, owner, concurrency=concurrency)
        else:
            loop = Loop(mailbox, name, on_failure, owner)
    except OSError as error:
        _give_up(mailbox, name, error)
    try:
        try:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            take_signals(loop.interrupt)
            # The owner blocked the one for the start, and the other if it waits for signals by `signal.sigwait`.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
            loop.build(target.pop())
            try:
                loop.run()
            finally:
                loop.stop()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    except Stop as stop:
        ending, exitcode = stop.ending, stop.exitcode
    except KeyboardInterrupt:
        # Ctrl-C goes to every process of the terminal: the caller shows its traceback, an actor ends in silence.
        ending, exitcode = _ending.INTERRUPTED, 128 + signal.SIGINT
    loop.end(ending)
    if ending.failed:
        _owned.stop_all()
    if exitcode:
        raise SystemExit(exitcode)


def _give_up(mailbox: Mailbox[Any], name: str, error: OSError) -> NoReturn:
    """There is no descriptor or no memory left; or no mailbox, as the owner is gone already, and nobody to be told."""
    if os.path.isdir(mailbox.directory):
        log.error("actor %r (process %d) could not start", name, os.getpid(), exc_info=error)
        with contextlib.suppress(OSError):
            _ending.write(mailbox.directory, Ending(False, f"could not start: {said(error)}", failed=True))
    mailbox.stop_reading()
    sys.exit(1)


def take_signals(handler: Callable[..., object]) -> None:
    """Sets the handler of SIGTERM, for this process alone: what it forks can be terminated as ever, and at once.

    And ignores SIGPIPE, as Python does: where the program does not, an asker that is gone would end who replies.
    """
    global _sigterm
    if signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _sigterm = handler, signal.signal(signal.SIGTERM, handler)


def _before_fork() -> None:
    if _sigterm:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _after_fork_in_parent() -> None:
    if _sigterm:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _after_fork_in_child() -> None:
    global _sigterm
    if _sigterm:
        (handler, before), _sigterm = _sigterm, None
        if signal.getsignal(signal.SIGTERM) == handler:
            signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # last: the parent's handler must not get one


# Once for all: a process may come from one that had a handler of its own, as an actor from its supervisor.
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
