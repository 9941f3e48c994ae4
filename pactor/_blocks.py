"""Blocks: the shared memory that a process sends large payloads in, again and again.

A fresh file costs a page fault for every 4 KB that is written or read, several times as much as the copying.

Rules:

1. A block is a file in ``/dev/shm`` that its sender keeps mapped, with a name in a directory of the sender's. For the
   receiver it gets a second name, in the mailbox, as any payload has one (see `_wire`). Just one process can remove
   that: the one that did has the payload, and alone gives the block back. It keeps the block mapped too, but for one
   that arrays live in, and knows it again by its inode, in which the second name ends.
2. Its first byte says who has it. The sender stores ``IN_USE`` or ``INHABITED`` before there is a second name; the
   receiver stores ``FREE`` behind the loading (of a reply: when its future has it) or, where arrays live in it, behind
   the last of them. A receiver that is killed can't, nor can one that an exception came to between the name's removal
   and that, and one that forks does not; then the block is not used again. It is one byte, set by its index, as that
   alone is one store: a slice goes through memcpy, which may store eight bytes twice, and between the two the sender
   may have used the block again.
3. Both may forget a block at any time: the memory goes with the last who has it mapped.
4. Where no block is to be had, a payload goes into a file of its own, whose first byte is ``FREE``.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import _files, _runtime

FREE, IN_USE, INHABITED = range(3)

#: In bytes. Payloads of other sizes have files of their own.
SMALLEST, LARGEST = 64 << 10, 32 << 20
#: What the blocks of one process may take together, in bytes, and how many there may be: each holds a descriptor.
_TOTAL, _COUNT = 64 << 20, 8
#: The same for those of others that it keeps mapped: each of several senders has several.
_TOTAL_KNOWN, _COUNT_KNOWN = 32 << 20, 32
#: So many bytes are sent before a block is used again: what was read lately is in the cache of another processor, and
#: takes three times as long to overwrite. No such cache holds larger ones; of them the last is used again.
_IN_TURN = 1 << 20
#: Where no block could be made, they take no turns for so many seconds.
_LOOK_AGAIN = 1.0
#: Who has not given a block back after so many seconds may never do it.
_LOST = 5.0
#: On a disk, what is kept would be written to it; and room that was once allocated may be missing later.
_MEMORY = "/dev/shm/"


class _Block:
    pid = 0  # where an exception comes before it is set
    sent = 0.0
    turn = 0

    def __init__(self, path: str, size: int) -> None:
        self.pid = os.getpid()
        self.path = path

        def make(fd: int) -> tuple[mmap.mmap, int]:
            _files.allocate(fd, size)
            return mmap.mmap(fd, size), os.fstat(fd).st_ino

        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self.mapping, self.inode = _files.opened(path, flags, make)

    def __del__(self, _unlink: Callable[[str], None] = os.unlink, _getpid: Callable[[], int] = os.getpid) -> None:
        if self.pid == _getpid():  # or else it is the parent's
            try:
                _unlink(self.path)
            except OSError:
                pass

    def __len__(self) -> int:
        return len(self.mapping)

    def is_free(self) -> bool:
        return self.mapping[0] == FREE


#: Those of this process, the last used last. Whoever takes one out has it for himself, in whatever thread or signal
#: handler; one that gets lost on the way is forgotten.
_own: list[_Block] = []
_numbers, _turns = itertools.count(1), itertools.count(1)
_no_room_until = 0.0


def store(directory: str, name: str, parts: Sequence[Any], size: int, inhabited: bool) -> str | None:
    """Stores the parts, one behind the other; returns their name in the directory, which begins with ``name``.

    None where there is no block for that. The first byte of the parts is ``FREE``.
    """
    if not SMALLEST <= size <= LARGEST or not directory.startswith(_MEMORY):
        return None
    forks = _forks
    turn, apart = next(_turns), min(_COUNT, _IN_TURN // size) if time.monotonic() >= _no_room_until else 0
    block = _take(size, turn - apart)
    try:
        block = block or _make(size, directory) or _take(size, turn)
        if block is None:
            return None
        _fill(block.mapping, parts)
        block.mapping[0] = INHABITED if inhabited else IN_USE
        block.sent, block.turn = time.monotonic(), turn
        name = f"{name}.{block.inode}"
        os.link(block.path, f"{directory}/{name}")
    except OSError as error:  # there is no room, no descriptor, no such place: the file says which
        if error.errno is None:  # a signal handler's
            raise
        return None
    # Or else a signal handler forked, and there are two who have it; or there are enough, for several threads.
    if forks == _forks and len(_own) < _COUNT:
        _own.append(block)
    return name


def _fill(mapping: mmap.mmap, parts: Sequence[Any]) -> None:
    position = 0
    for part in parts:
        end = position + len(part)
        mapping[position:end] = part
        position = end


def _take(size: int, turn: int) -> _Block | None:
    """A free block that had its turn then or before. A little larger it may be; a small payload may stay for long."""
    found, others, is_small = None, [], 2 * size <= _IN_TURN
    while found is None:
        try:
            block = _own.pop(0 if is_small else -1)
        except IndexError:
            break
        if size <= len(block) <= 2 * size and block.turn <= turn and block.is_free():
            found = block
        else:
            others.append(block)
    _own[:0] = others if is_small else reversed(others)
    return found


def _make(size: int, mailbox: str) -> _Block | None:
    """A new block; None where there is no room, or no descriptor, for one."""
    global _no_room_until
    step = max(1 << 16, 1 << (size.bit_length() - 3))  # at most a quarter more than is needed
    size = -(-size // step) * step
    kept: list[_Block] = []
    lost = time.monotonic() - _LOST
    for block in _all():
        fits = len(kept) < _COUNT - 1 and size + len(block) + sum(map(len, kept)) <= _TOTAL
        if fits or not (block.is_free() or block.sent < lost):
            kept.append(block)
    _own[:0] = reversed(kept)
    if len(kept) < _COUNT and size + sum(map(len, kept)) <= _TOTAL:
        try:
            directory = _runtime.blocks(mailbox)
            status = os.statvfs(directory)
            # Half of it is for others.
            if 2 * (status.f_bavail * status.f_frsize - size) >= status.f_blocks * status.f_frsize:
                return _Block(f"{directory}/{next(_numbers)}", size)
        except OSError as error:
            if error.errno is None:  # a signal handler's
                raise
    _no_room_until = time.monotonic() + _LOOK_AGAIN
    return None


def _all() -> list[_Block]:
    """Takes out all, the last used first."""
    found = []
    while True:
        try:
            found.append(_own.pop())
        except IndexError:
            return found


def forget() -> bool:
    """Forgets the blocks of this process that are free; returns whether there were any."""
    before = _all()
    kept = [block for block in before if not block.is_free()]
    _own[:0] = reversed(kept)
    return len(kept) < len(before)


class _Inhabited(mmap.mmap):
    """Gives the block back when nothing lives in it any more.

    Private, as memory that nobody shares is: what a process writes into an array, one that it forks does not see.
    """

    forks: int
    is_ours = False  # not claimed yet
    _state: mmap.mmap

    @classmethod
    def of(cls, fd: int) -> _Inhabited:
        mapping = cls(fd, 0, flags=mmap.MAP_PRIVATE)
        mapping._state = mmap.mmap(fd, 1)
        mapping.forks = _forks
        return mapping

    def __del__(self) -> None:
        if self.is_ours and self.forks == _forks:
            try:
                self.resize(len(self))  # in a cycle that is collected, what lives in it may come later
            except BufferError:
                return
            self._state[0] = FREE


#: How often this process was forked: what lived in a block then may live on in a child.
_forks = 0
#: Blocks of others, the longest known first, by device and inode: no other file has those as long as one is mapped.
_known: dict[tuple[int, ...], mmap.mmap] = {}


def attach(directory: str, name: str) -> mmap.mmap:
    """Maps a block or a file, which is not claimed yet."""
    known = _known.get((_device(directory), *map(int, name.split(".")[2:])))  # a file is never known
    if known is not None and known[0] == IN_USE:
        return known
    return _files.opened(f"{directory}/{name}", os.O_RDWR | os.O_NOFOLLOW, _mapped)


def _mapped(fd: int) -> mmap.mmap:
    state = int.from_bytes(os.pread(fd, 1, 0), "little")
    if state == INHABITED:
        return _Inhabited.of(fd)
    mapping = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED if state == IN_USE else mmap.MAP_PRIVATE)
    if state == IN_USE and len(mapping) <= _TOTAL_KNOWN:
        status = os.fstat(fd)
        key = status.st_dev, status.st_ino
        while len(_known) >= _COUNT_KNOWN or len(mapping) + sum(map(len, [*_known.values()])) > _TOTAL_KNOWN:
            _known.pop([*_known, key][0], None)
        _known[key] = mapping
    return mapping


def claim(directory: str, name: str, mapping: mmap.mmap) -> None:
    """Removes the name of what this process maps, and so has it."""
    os.unlink(f"{directory}/{name}")
    if isinstance(mapping, _Inhabited):
        mapping.is_ours = True


@functools.lru_cache(_COUNT_KNOWN)
def _device(directory: str) -> int:
    return os.stat(directory).st_dev


def release(mapping: mmap.mmap) -> None:
    """Gives back what was claimed, but for what lives in it."""
    if not isinstance(mapping, _Inhabited):
        mapping[0] = FREE


def _note_fork() -> None:
    global _forks
    _forks += 1


def _after_fork_in_child() -> None:
    _note_fork()
    _own.clear()  # they are the parent's, which may be writing to one


# In the parent twice, for what comes between.
os.register_at_fork(before=_note_fork, after_in_parent=_note_fork, after_in_child=_after_fork_in_child)
