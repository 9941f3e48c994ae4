"""An actor's process from its start to its end, and the signals that it gets."""

from __future__ import annotations

import contextlib
import functools
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


def main(mailbox: Mailbox[Any], name: str, target: object, on_failure: str, owner: int) -> None:
    """What an actor's process does from its start to its end."""
    ending, exitcode = _ending.CLOSED, 0
    signal.set_wakeup_fd(-1)  # a forked process has its parent's, which would hear of its signals
    try:
        loop = Loop(mailbox, name, on_failure, owner)
    except OSError as error:
        _give_up(mailbox, name, error)
    try:
        try:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            take_sigterm(loop.interrupt)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the owner blocked it for the start
            loop.build(target)
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
            _ending.write(
                mailbox.directory, Ending(False, f"could not start: {said(error)}", failed=True, started=False)
            )
    mailbox.stop_reading()
    sys.exit(1)


def take_sigterm(handler: Callable[..., object]) -> None:
    """Sets the handler, for this process alone: what it forks can be terminated as ever, from its first moment."""
    before = signal.signal(signal.SIGTERM, handler)

    def give_back() -> None:
        if signal.getsignal(signal.SIGTERM) == handler:
            signal.signal(signal.SIGTERM, before)
        unblock()

    unblock = functools.partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM})
    block = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGTERM})
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=give_back)
