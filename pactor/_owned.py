"""The actors that this process owns: it sees to it that they end when it does."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from . import _ending
from ._log import log

if TYPE_CHECKING:
    from ._actor import Actor

#: How long an actor may take to end when its owner failed, in seconds.
_STOPPED = 5.0

#: So many may have ended that nobody joined, or as many as run, if those are more.
_MOST_ENDED = 16

_running: list[Actor[Any]] = []
_reap_at = _MOST_ENDED
_closes_at_exit = False


def add(actor: Actor[Any]) -> None:
    global _closes_at_exit, _reap_at
    if len(_running) >= _reap_at:
        # As multiprocessing does: not everybody joins, and each that has ended has files open.
        for other in _running[:]:
            if other.exitcode is not None:
                other._reap()
        _reap_at = max(_MOST_ENDED, 2 * len(_running))
    _running.append(actor)
    if not _closes_at_exit:
        from multiprocessing import util  # see pactor/__init__.py

        util.Finalize(None, _close_all, exitpriority=100)
        _closes_at_exit = True


def remove(actor: Actor[Any]) -> bool:
    """Returns whether it was there: it is the first to remove it that has to bury it."""
    try:
        _running.remove(actor)
    except ValueError:
        return False
    return True


def _close_all() -> None:
    """At the owner's exit. The newest first: it was made by one that knew the older, and may tell them something."""
    # In a session at a prompt, the last Ctrl-C may be long past.
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    while newest := _running[-1:]:  # a thread may go on making some, and joining them
        try:
            newest[0]._see_off(interrupted)
        except OSError as error:  # the others are to be closed all the same
            if error.errno is None:  # a signal handler's
                raise
            log.error("actor %r can't be closed, and is killed: %s", newest[0].name, error)
            newest[0].kill()
            remove(newest[0])


def stop_all() -> None:
    """At the end of an actor that failed: what it owns ends too, and nothing that hangs there holds up a restart.

    As a supervisor of Erlang's does: told to end, and killed if it has not within 5 seconds.
    """
    actors = _running[::-1]
    for actor in actors:
        actor._signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOPPED
    for actor in actors:
        if not actor.join(max(0, deadline - time.monotonic())):
            actor.kill()
            actor.join()
    _ending.forget()


def _after_fork() -> None:
    global _closes_at_exit, _reap_at
    _running.clear()
    _reap_at = _MOST_ENDED
    _closes_at_exit = False


os.register_at_fork(after_in_child=_after_fork)
