"""Files that are open for a moment, most of them to be mapped.

An exception may come between any two steps: Ctrl-C, or a signal handler's. One that comes right behind an `os.open`
would take its descriptor along, which nobody could close any more.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import termios
from array import array
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def opened(path: str, flags: int, use: Callable[[int], _T]) -> _T:
    """What ``use`` makes of a descriptor of the file, which is closed then. A file that is made is private."""
    fds: list[int] = []
    try:
        fds.extend(map(os.open, (path,), (flags,), (0o600,)))  # one step: where it was opened, it is in the list
        return use(fds[0])
    finally:
        for fd in fds:
            os.close(fd)


def mapped(path: str, flags: int = 0, size: int = 0) -> mmap.mmap:
    """A mapping of the whole file, for reading and writing. The file takes up at least ``size`` bytes then."""

    def map_whole(fd: int) -> mmap.mmap:
        if size:
            allocate(fd, size)
        return mmap.mmap(fd, 0)

    return opened(path, flags | os.O_RDWR | os.O_NOFOLLOW, map_whole)


def allocate(fd: int, size: int) -> None:
    """Has the file take up that much. A mapping could not say later that there is no room: SIGBUS would."""
    os.posix_fallocate(fd, 0, size)


def unread(fd: int) -> int:
    """How many bytes are in a FIFO, of which either end is open."""
    count = array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
