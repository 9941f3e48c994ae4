"""What a mailbox has received and not yet handed out, in shared memory: it outlives its reader.

Rules:

1. The reader reads from the FIFO straight into the inbox, with room for all that the FIFO can hold, so a read brings
   whole frames. A frame begins with its size, never 0, and behind the last frame there is a 0: how far a read got can
   be seen from the frames themselves, also when the reader was killed before it could note it.
2. One word says where the reader is. It is stored at once, and each of its values is true at any instruction:

   ``offset, READY``      the frame at offset, if there is one, and those behind it are still to be handed out
   ``offset, EXECUTING``  the same, but the frame at offset was handed out and may have been executed
   ``offset, ASIDE``      the same, but what came past the FIFO was handed out and may have been executed
   ``CLEARING``           all was handed out, and zeros are being written over it

3. The next reader takes up what a killed one left with `recover`: no frame twice, and none lost but one that was
   handed out.

An inbox has one reader at a time; its mailbox sees to that. But a signal handler of the reader may wait, and read
the same inbox in the middle of the code here. CPython lets it in at the beginning of a function, behind a call, and
where the code jumps: where a loop turns, and up to 3.10 also where a condition is false. Up to 3.11 so may the garbage
collection, where an object is made. So what belongs together stands behind an ``if`` that is true, without a call,
another ``if``, a slice of a view or a long tuple; and conditions of such an ``if`` that would jump are joined by ``&``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
from collections.abc import Iterator

from . import _files, _wire
from ._log import log as _log

READY, EXECUTING, CLEARING, ASIDE = range(4)

# The header's words.
_WORD = 0  # offset << 2 | state
_END = 1  # where the last frame ends, or earlier: where to begin to look for the end
_PID = 2  # who reads
_CLOSING = 3  # set by the owner: put a CLOSE behind what is in the FIFO now
_STARTED = 4  # whether the process that reads, or was the last to, came as far as its first message
_ASIDE = 64  # where the frame is that came past the FIFO, in bytes
_FRAMES = _ASIDE + _wire.MAX_FRAME  # where the others begin
_FRONT = 2048  # frames that end before it stay there when all are done with: to clear costs as much as a message
_UNKNOWN = (1 << 64) - 1  # value of _END: look from the offset on, and there may be rubbish behind it

_CLOSE = _wire.frame(_wire.CLOSE, b"", b"")


def create(path: str, fifo: int) -> None:
    """Makes an empty inbox. Raises OSError where there is no room for it."""
    size = _FRAMES + 2 * _wire.capacity(fifo)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    _files.opened(path, flags, lambda fd: _files.allocate(fd, size))


def set_reader(path: str, pid: int) -> None:
    """Notes who reads the mailbox."""
    _store(path, _PID, pid)


def reader(path: str) -> int:
    """The process that reads the mailbox, or did last; 0 where that is not known."""
    try:
        with open(path, "rb") as file:
            return int.from_bytes(os.pread(file.fileno(), 8, 8 * _PID), sys.byteorder)
    except OSError:
        return 0


def executing(path: str) -> tuple[int, bytes] | None:
    """Kind and body of the frame that a reader which is gone was handed last, if it had not finished with it."""
    with contextlib.suppress(OSError, ValueError, struct.error), open(path, "rb") as file:
        word = int.from_bytes(os.pread(file.fileno(), 8, 8 * _WORD), sys.byteorder)
        if word & 3 in (EXECUTING, ASIDE):
            start = _ASIDE if word & 3 == ASIDE else _FRAMES + (word >> 2)
            size, kind = _wire.HEADER.unpack(os.pread(file.fileno(), _wire.HEADER_SIZE, start))
            return kind, os.pread(file.fileno(), size - _wire.HEADER_SIZE, start + _wire.HEADER_SIZE)
    return None


def close_when_read(path: str) -> None:
    """Has the reader find a CLOSE behind all that is queued now, where the FIFO has no room for one."""
    _store(path, _CLOSING, 1)


def _store(path: str, word: int, value: int) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), value.to_bytes(8, sys.byteorder), 8 * word)


class Inbox:
    """The frames of one mailbox: `pull` brings them from the FIFO, `take` hands them out."""

    def __init__(self, path: str, fifo: int) -> None:
        self._path = path
        self._fifo = fifo
        self._chunk = _wire.capacity(fifo)
        self._least = 2 * self._chunk
        self._room = self._chunk + _wire.HEADER_SIZE + 2  # for what a read brings, a CLOSE, and a 0
        self._mapping = _files.mapped(path)
        self._view, self._words = _views(self._mapping)
        self._capacity = len(self._mapping) - _FRAMES
        self._position = 0
        self._end = 0
        self.kind = 0
        self._is_reading = False  # also where an exception, or a signal handler, came before the end was noted
        self._rescues = 0  # how often another noted it
        self._truncations = 0

    def close(self) -> None:
        """Lets go of the memory; what is in it stays for the next reader."""
        if not self._mapping.closed:
            self._words.release()
            self._view.release()
            with contextlib.suppress(BufferError):  # forked while another thread was reading into it
                self._mapping.close()

    def recover(self) -> bytes | None:
        """Takes up the inbox where its last reader left it; returns the frame handed out last, as `take` did."""
        if (size := self._mapping.size()) > len(self._mapping):
            self._mapping = _files.mapped(self._path)
            self._view, self._words = _views(self._mapping)
        self._capacity = size - _FRAMES
        if self._words[_WORD] == CLEARING:
            self._is_reading = False
            self._position = self._end = self._capacity
            self._clear()
            return None
        while True:
            word, hint = self._words[_WORD], self._words[_END]
            end = word >> 2 if hint == _UNKNOWN else max(word >> 2, hint)
            if (self._words[_WORD] == word) & (self._words[_END] == hint):
                self._position = word >> 2
                self._end = end
                self._is_reading = True  # frames whose end is not noted may be here
                break
        self._rescue()
        if hint == _UNKNOWN or self._size_at(self._end):  # rubbish, which must not follow later frames
            self._view[_FRAMES + self._end : _FRAMES + self._capacity] = _zeros[: self._capacity - self._end]
        self._words[_END] = self._end
        if word & 3 == ASIDE:
            self.kind, body = self._set_aside()
            return body
        return self.take() if word & 3 == EXECUTING else None

    def pull(self) -> int:
        """Reads what the FIFO holds, behind what is here; returns how many bytes came."""
        while True:
            view, end = self._view, self._end
            buffers = [view[_FRAMES + end : _FRAMES + end + self._chunk]]
            closing, rescues = self._words[_CLOSING], self._rescues
            is_as_before = (self._end == end) & (self._view is view)
            has_room = end + self._room <= self._capacity
            if is_as_before & has_room & (not self._is_reading) & (self._words[_WORD] != CLEARING):
                self._is_reading = True
                try:
                    count = os.readv(self._fifo, buffers)
                except BlockingIOError:
                    count = 0
                break
            self._prepare()
        if self._rescues == rescues:
            self._end += count
            self._words[_END] = self._end
            self._is_reading = False
        if closing and self._words[_CLOSING] and not self._is_reading:
            start = _FRAMES + self._end
            self._mapping[start : start + _wire.HEADER_SIZE] = _CLOSE
            self._end += _wire.HEADER_SIZE
            self._words[_CLOSING] = 0  # last: two CLOSEs say the same, none says that there is no end
            count += _wire.HEADER_SIZE
        return count

    def take(self) -> bytes | None:
        """Hands out the next frame: returns what is behind its header, and leaves its kind in ``kind``.

        None where there is none. To ask for the next is to have finished with the one before.
        """
        mapping, position = self._mapping, self._position
        start = _FRAMES + position
        size = mapping[start] | mapping[start + 1] << 8  # 0 where there is no frame
        if _wire.HEADER_SIZE <= size <= self._end - position:
            self.kind = mapping[start + 2]
            self._words[_WORD] = position << 2 | EXECUTING
            self._position = position + size
            return mapping[start + _wire.HEADER_SIZE : start + size]
        is_in_front = (self._position < _FRONT) & (self._capacity == self._least)
        if (self._position == self._end) & is_in_front & (not self._is_reading):
            self._words[_WORD] = self._position << 2 | READY
            return None
        if not self.is_empty():
            self._discard()
        elif position or self._is_reading:
            self._clear()
        return None if self.is_empty() else self.take()

    def set_aside(self, frame: bytes) -> None:
        """Notes a frame that came past the FIFO, as one that was handed out. Only where `take` found nothing."""
        self._mapping[_ASIDE : _ASIDE + len(frame)] = frame
        self._words[_WORD] = self._position << 2 | ASIDE

    @property
    def place(self) -> int:
        """Differs from one frame that was handed out to the next, but for those that came past the FIFO."""
        return self._words[_WORD]

    def is_empty(self) -> bool:
        return self._position == self._end

    @property
    def unread(self) -> int:
        """How many bytes are here that were not handed out."""
        return self._end - self._position

    @property
    def is_to_close(self) -> bool:
        """Whether the owner wants a CLOSE behind what was queued, and no `pull` has seen it yet."""
        return self._words[_CLOSING] != 0

    @property
    def has_started(self) -> bool:
        """Whether the process that reads, or was the last to, came as far as its first message."""
        return self._words[_STARTED] != 0

    @has_started.setter
    def has_started(self, value: bool) -> None:
        self._words[_STARTED] = value

    def note_reader(self) -> None:
        """Notes that this process reads the mailbox."""
        self._words[_PID] = os.getpid()

    def finish(self) -> None:
        """Says that the frame handed out last is done with, where no further `take` will say so."""
        self._words[_WORD] = self._position << 2 | READY

    def __len__(self) -> int:
        """How many frames are here."""
        return sum(1 for _ in self._frames(self._position))

    def unfinished(self) -> Iterator[tuple[int, bytes]]:
        """The kinds and bodies of all frames from the one on that was handed out last."""
        word = self._words[_WORD]
        if word & 3 == ASIDE:
            yield self._set_aside()
        yield from self._frames(word >> 2)

    def received(self) -> Iterator[tuple[int, bytes]]:
        """The same, with what the FIFO holds."""
        self.pull()
        return self.unfinished()

    def latest(self, count: int) -> Iterator[tuple[int, bytes]]:
        """The kinds and bodies of the frames in the last so many bytes."""
        return self._frames(self._end - count)

    def _frames(self, position: int) -> Iterator[tuple[int, bytes]]:
        while position < self._end and _wire.HEADER_SIZE <= (size := self._size_at(position)) <= self._end - position:
            start = _FRAMES + position
            yield self._mapping[start + 2], self._mapping[start + _wire.HEADER_SIZE : start + size]
            position += size

    def _set_aside(self) -> tuple[int, bytes]:
        size = self._mapping[_ASIDE] | self._mapping[_ASIDE + 1] << 8
        return self._mapping[_ASIDE + 2], self._mapping[_ASIDE + _wire.HEADER_SIZE : _ASIDE + size]

    def _discard(self) -> None:
        """Where rubbish begins nobody can tell where the next frame does."""
        start, count = _FRAMES + self._position, self._end - self._position
        size = self._mapping[start] | self._mapping[start + 1] << 8
        if (count > 0) & ((size < _wire.HEADER_SIZE) | (size > count)):
            self._position = self._end
            self._clear()
            _log.error("%d bytes that are no message came to a mailbox: discarded", count)

    def _size_at(self, offset: int) -> int:
        return self._mapping[_FRAMES + offset] | self._mapping[_FRAMES + offset + 1] << 8

    def _prepare(self) -> None:
        """Ends what somebody began who was interrupted, and makes room."""
        if self._words[_WORD] == CLEARING:  # and all is done but to say so
            self._words[_WORD] = READY
        self._rescue()
        if self._end + self._room > self._capacity:
            self._make_room()

    def _rescue(self) -> None:
        """Notes the end of what was read, for somebody who was interrupted before."""
        self._rescues += self._is_reading
        while self._is_reading:
            size = self._mapping[_FRAMES + self._end] | self._mapping[_FRAMES + self._end + 1] << 8
            size *= size <= self._capacity - 2 - self._end  # 0 for rubbish; no `if`, see above
            self._end += size
            self._is_reading = size > 0

    def _clear(self) -> None:
        """Begins at the front again, if all was handed out."""
        self._rescue()
        end = self._end
        zeros, least = _zeros[:end], _zeros[: self._least]
        if self._position == self._end == end and self._capacity == self._least and not self._is_reading:
            self._words[_WORD] = CLEARING
            self._view[_FRAMES : _FRAMES + end] = zeros
            self._position = self._end = 0
            self._words[_END] = 0
            self._words[_WORD] = READY
        elif self._position == self._end and self._capacity > self._least and not self._is_reading:
            self._words[_WORD] = CLEARING
            self._capacity = self._least
            self._truncations += 1
            self._view[_FRAMES : _FRAMES + self._least] = least
            self._position = self._end = 0
            self._words[_END] = 0
            try:
                os.truncate(self._path, _FRAMES + self._least)
            except FileNotFoundError:
                pass
            if self._words[_WORD] == CLEARING:
                self._words[_WORD] = READY

    def _make_room(self) -> None:
        word, end = self._words[_WORD], self._end
        offset, state = word >> 2, word & 3
        length = end - offset
        rest, zeros, zero = self._view[_FRAMES + offset : _FRAMES + end], _zeros[:offset], _zeros[:2]
        is_as_before = (self._words[_WORD] == word) & (self._end == end) & (not self._is_reading)
        if is_as_before and self._capacity // 2 <= offset >= length + 2:
            # The free half in front takes the rest, and a 0 behind it. The word makes the copy the truth; only then is
            # the original erased.
            self._view[_FRAMES : _FRAMES + length] = rest
            self._view[_FRAMES + length : _FRAMES + length + 2] = zero
            self._words[_END] = _UNKNOWN
            self._words[_WORD] = state
            self._view[_FRAMES + length : _FRAMES + end] = zeros
            self._words[_END] = length
            self._position -= offset
            self._end = length
        elif is_as_before:
            self._grow()

    def _grow(self) -> None:
        truncations = self._truncations
        mapping = _files.mapped(self._path, size=_FRAMES + 2 * self._capacity)
        view, words = _views(mapping)
        size = len(mapping) - _FRAMES
        # Both mappings are of the same file. But a signal handler may have made it shorter again, or longer still.
        if truncations == self._truncations and size > self._capacity:
            self._mapping, self._view = mapping, view
            self._words, self._capacity = words, size


def _views(mapping: mmap.mmap) -> tuple[memoryview, memoryview]:
    """The bytes of a mapping, and the words at its beginning. What erases it, is long enough then, too."""
    global _zeros
    view = memoryview(mapping)
    if view.nbytes > _zeros.nbytes:  # or else those are long enough that are here, or came with the fork
        zeros = memoryview(bytes(view.nbytes))
        if zeros.nbytes > _zeros.nbytes:  # as a signal handler may have made longer ones
            _zeros = zeros
    return view, view[:_ASIDE].cast("Q")


#: To erase with: to make as many takes a call.
_zeros = memoryview(b"")
