"""What code that runs in an actor can know and do without `self`: it may be a function, a library."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._proxy import Proxy, complete

if TYPE_CHECKING:
    from ._deadlock import Deadlocks
    from ._enqueue import Enqueue, EnqueueLater
    from ._errors import ActorError
    from ._loop import Loop

T = TypeVar("T")

_loop: Loop | None = None


class CurrentActor:
    """An actor, as seen from inside: its ``name``, its ``proxy``, its ``enqueue`` and ``enqueue_later``."""

    def __init__(self, name: str, proxy: Any, enqueue: Enqueue, enqueue_later: EnqueueLater) -> None:
        self.name = name
        self._proxy = proxy
        self.enqueue = enqueue
        self.enqueue_later = enqueue_later

    @property
    def proxy(self) -> Any:
        """What others hold of it, to be sent to them."""
        return complete(self._proxy)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def current_actor() -> CurrentActor | None:
    """The actor that this process runs; None where it runs none, or has not made its object yet::

        current_actor().name  # "Counter-1"

    As `multiprocessing.current_process`, and as ``actor_ref`` in pykka.
    """
    return _loop.current if _loop else None


def watch(proxy: T, method: Callable[[T, ActorError], object], /) -> None:
    """Has this actor call ``method(proxy, reason)`` once, when the actor of ``proxy`` has ended::

        def on_start(self):
            watch(self.worker, self.worker_ended)

        def worker_ended(self, worker, reason):
            print(reason)  # actor 'Worker-1' died: process 4711 was killed by SIGKILL while it executed work()

    ``method`` is one of the wrapped object's; the call is a message behind what is queued. ``reason`` is the error that
    asks to that actor end with: ActorClosed where it was closed, ActorDied else. It names the signal as long as nobody
    has reaped the process, as a fork server does at once, and when its owner has noted how it ended. An actor that is
    restarted has not ended. One that has ended already is told of at once. The watch ends with the process that
    watches: an actor that is restarted begins again, in ``on_start``.

    Raises RuntimeError outside of actors (there, `Actor.join` waits for the end, and asks end with it), TypeError and
    ValueError for arguments that can't be right, and OSError where there is no descriptor left.

    The semantics are those of Erlang's monitors.
    """
    if _loop is None or _loop.current is None:
        raise RuntimeError("watch() works inside of an actor, from on_start() on; elsewhere join() waits for an end")
    if not isinstance(proxy, Proxy):
        raise TypeError(f"watch() takes a proxy, as in watch(actor.proxy, self.ended), not {proxy!r}")
    _loop.watch(proxy, method)


def enter(loop: Loop) -> None:
    """Makes ``loop`` the one of this process."""
    global _loop
    _loop = loop


def deadlocks() -> Deadlocks | None:
    """Of this actor, in its own thread."""
    return _loop.deadlocks if _loop and _loop.thread == threading.get_ident() else None


def _after_fork() -> None:
    global _loop
    _loop = None


os.register_at_fork(after_in_child=_after_fork)
