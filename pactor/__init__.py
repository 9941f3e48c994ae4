"""Actors: wrap a plain object, it runs in a process of its own, and calling a method on its proxy is a message."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ._actor import Actor
from ._current import CurrentActor, current_actor, watch
from ._enqueue import Enqueue, EnqueueLater, Timer
from ._errors import ActorClosed, ActorDied, ActorError, DeadlockError, RemoteError
from ._proxy import ask, tell

if TYPE_CHECKING:
    from ._future import Future
    from ._mailbox import Mailbox
    from ._supervisor import Restart

__version__ = "1.0.0.dev0"

__all__ = [
    "Actor",
    "ActorClosed",
    "ActorDied",
    "ActorError",
    "CurrentActor",
    "DeadlockError",
    "Enqueue",
    "EnqueueLater",
    "Future",
    "Mailbox",
    "RemoteError",
    "Restart",
    "Timer",
    "ask",
    "current_actor",
    "tell",
    "watch",
]


def __getattr__(name: str) -> object:
    """Imports at their first use what imports a lot itself."""
    if name == "Future":
        from ._future import Future as found
    elif name == "Mailbox":
        from ._mailbox import Mailbox as found  # type: ignore[assignment]
    elif name == "Restart":
        from ._supervisor import Restart as found  # type: ignore[assignment]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# What `multiprocessing.util` does at the exit of a program, it does at the place among `atexit` functions that it took
# at its import. Where it is there already, as in a fork server, all that an actor needs may be there as well.
if "multiprocessing.util" in sys.modules:
    from ._mailbox import Mailbox
