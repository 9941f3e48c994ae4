"""How what an actor wraps gets into its process."""

from __future__ import annotations

import contextlib
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from . import _wire


def packed(target: object) -> object:
    """The target as bytes; itself where it holds what only a process that is being started can take, as a Lock."""
    try:
        return _wire.plain(target)
    except RuntimeError:
        return target
    except _wire.REFUSALS:
        with contextlib.suppress(RuntimeError):
            if not _holds_descriptors(target):
                return bytes(ForkingPickler.dumps(target))
        return target


def _holds_descriptors(target: object) -> bool:
    """Whether there is a socket or a Connection: its pickle is for one load, and who is restarted loads it again."""
    starting = _Starting()
    set_spawning_popen(cast(Any, starting))
    try:
        ForkingPickler.dumps(target)
    finally:
        set_spawning_popen(None)
    return starting.is_used


class _Starting:
    """What multiprocessing's reducers ask of the process that is being started, to pass a descriptor."""

    is_used = False
    DupFd = int

    def duplicate_for_child(self, descriptor: int) -> int:
        self.is_used = True
        return descriptor
