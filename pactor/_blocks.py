"""Blocks: the shared memory that a process sends large payloads in, again and again.

A fresh file costs a page fault for every 4 KB that is written or read, several times as much as the copying.

Rules:

1. A block is a file that its sender keeps mapped, with a name in a directory of the sender's. For the receiver it gets
   a second name, in the mailbox, as any payload has one (see `_wire`). The receiver removes that, and keeps the block
   mapped too.
2. Its first word says who has it. The sender stores ``IN_USE`` or ``INHABITED`` before there is a second name, the
   receiver ``FREE``: behind the loading or, where arrays live in it, behind the last of them. A receiver that is killed
   can't: then the block is not used again.
3. Both may forget a block at any time. The memory goes with the last who has it mapped.
4. Where no block is to be had, a payload goes into a file of its own, whose first word is ``FREE``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from typing import Any

from . import _runtime

FREE, IN_USE, INHABITED = (number.to_bytes(8, "little") for number in range(3))

#: Larger payloads have files of their own, in bytes.
LARGEST = 32 << 20
#: What the blocks of one process may take together, in bytes, and how many there may be: each holds a descriptor. The
#: same is the limit for those of others that it keeps mapped.
_TOTAL, _COUNT = 64 << 20, 8
#: A block is made only where it takes no more than this part of what the system has left.
_SHARE = 8


class _Block:
    def __init__(self, path: str, size: int) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            # A mapping could not say later that there is no room: SIGBUS would.
            os.posix_fallocate(fd, 0, size)
            self.mapping = mmap.mmap(fd, size)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def __len__(self) -> int:
        return len(self.mapping)


#: Those of this process, the longest unused first. Whoever takes one out has it for himself.
_blocks: list[_Block] = []
_made = 0


def store(path: str, parts: Sequence[Any], size: int, inhabited: bool) -> bool:
    """Stores the parts, one behind the other, and names them ``path``; False where there is no block for that.

    The first eight bytes, which the parts leave free, are the block's own.
    """
    block = _take(size, os.path.dirname(path)) if size <= LARGEST else None
    if block is None:
        return False
    try:
        _fill(block.mapping, parts)
        block.mapping[:8] = INHABITED if inhabited else IN_USE
        try:
            os.link(block.path, path)
            return True
        except OSError:  # another file system
            block.mapping[:8] = FREE
            return False
    finally:
        _blocks.append(block)


def _fill(mapping: mmap.mmap, parts: Sequence[Any]) -> None:
    position = 0
    for part in parts:
        end = position + len(part)
        mapping[position:end] = part
        position = end


def _take(size: int, mailbox: str) -> _Block | None:
    for block in reversed(_blocks):  # the last used is in the processor's cache
        if size <= len(block) and block.mapping[:8] == FREE:
            with contextlib.suppress(ValueError):  # another thread was faster
                _blocks.remove(block)
                return block
    try:
        return _make(size, mailbox)
    except OSError:  # no descriptor, no room
        return None


def _make(size: int, mailbox: str) -> _Block | None:
    global _made
    step = max(1 << 16, 1 << (size.bit_length() - 3))  # at most a quarter more than is needed
    size = -(-size // step) * step
    while len(_blocks) >= _COUNT or size + sum(map(len, _blocks)) > _TOTAL:
        _runtime.unlink(_blocks.pop(0).path)
    directory = _runtime.blocks(mailbox)
    status = os.statvfs(directory)
    if size * _SHARE > status.f_bavail * status.f_frsize:
        return None
    _made += 1
    return _Block(f"{directory}/{_made}", size)


class _Inhabited(mmap.mmap):
    """Gives the block back when nothing lives in it any more."""

    def __init__(self, *_args: object) -> None:
        self.forks = _forks

    def __del__(self) -> None:
        if self.forks == _forks:
            self[:8] = FREE


#: How often this process was forked: what lived in a block then may live on in a child.
_forks = 0
#: Blocks of others, the longest known first, by device and inode: no other file has those as long as one is mapped.
_known: dict[tuple[int, int], mmap.mmap] = {}


def claim(path: str) -> mmap.mmap:
    """Maps a block or a file, and removes its name."""
    status = os.lstat(path)
    key = status.st_dev, status.st_ino
    known = _known.get(key)
    if known is not None and known[:8] == IN_USE:
        os.unlink(path)
        return known
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        os.unlink(path)
        state = os.pread(fd, 8, 0)
        if state == INHABITED:
            return _Inhabited(fd, 0)
        mapping = mmap.mmap(fd, 0)
        if state == IN_USE:
            _known[key] = mapping
            while len(_known) > _COUNT or sum(map(len, list(_known.values()))) > _TOTAL:
                _known.pop(next(iter(_known)), None)
        return mapping
    finally:
        os.close(fd)


def release(mapping: mmap.mmap) -> None:
    """Gives back what was claimed, but for what lives in it."""
    if not isinstance(mapping, _Inhabited):
        mapping[:8] = FREE


def _note_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(
    before=_note_fork,
    after_in_parent=_note_fork,  # for what came between
    after_in_child=_blocks.clear,  # they are the parent's, which may be writing to one
)
