"""What travels between processes: frames, and the payloads that are too large for one.

Rules:

1. A frame is ``size: u16, kind: u8, head, body`` and has at most PIPE_BUF bytes. POSIX makes a write of that size all
   or nothing, so any number of senders need no lock, and one that is killed leaves no half of a frame.
2. A body that does not fit is stored as a file in the receiver's mailbox, and the frame names it. The file gets its
   name when it is complete; its receiver removes the name before it loads it, that of a reply when the future has it.
   It may be a block, which the sender uses again and again: the first byte is its state (see `_blocks`), which is FREE
   in all other files.
3. Buffers that pickle protocol 5 takes out of band lie behind the body in that file, each aligned. The receiver maps
   them: a numpy array is written once and not copied again. That is for what is expected to be large: what was pickled
   for a frame and is too large goes as it is, as a `__reduce__` is to be called once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import pickle
import select
import struct
import sys
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.reduction import ForkingPickler
from typing import Any

from . import _blocks, _files, _runtime, _waiting

#: PIPE_BUF; 512 is the least that POSIX allows.
MAX_FRAME: int = getattr(select, "PIPE_BUF", 512)

HEADER = struct.Struct("<HB")
HEADER_SIZE = HEADER.size

# The kinds of frames, and what their heads hold.
ITEM = 1  #: an object, nothing else: what Mailbox.put sends, and a tell
ASK = 2  #: ASK_HEAD, the asker's mailbox: the same, and somebody waits for the reply
VALUE = 3  #: REPLY_HEAD: what the method returned
ERROR = 4  #: REPLY_HEAD: what it raised
CLOSE = 5  #: the end, behind all that was sent before
NUDGE = 6  #: wakes the receiver, no more
ENDED = 8  #: from the reader to itself: what it watches has ended
PROBE = 7  #: for a receiver that waits itself, see _deadlock
LANE = 9  #: the asker's mailbox: there is a lane
STORED = 0x80  #: flag: the body is the name of a file
OWN = 0x40  #: flag: from the reader to itself, for which a bounded mailbox has no slots
LANED = 0x20  #: flag: an ask that came, or may have come, through a lane, see _lane
KIND = 0x1F

ASK_HEAD = struct.Struct("<QH")  # number of the ask, length of the asker's address
REPLY_HEAD = struct.Struct("<Q")  # number of the ask

#: Buffers from this size on are worth a mapping of their own, in bytes.
OUT_OF_BAND = 64 * 1024
_ALIGN = 64
#: A mapping keeps one or two descriptors open as long as an array lives on it. This many at most, and with all of them
#: half of the descriptors that the process may have; the rest is copied.
_MAX_MAPPINGS = 256
_LARGE_PART = 1 << 16
_FRAMES = (pickle.PROTO, pickle.FRAME)
_READ_ONLY = 1 << 63
_U64 = struct.Struct("<Q")
_START = struct.Struct("<B7xQQ")  # the state of a block, the number of buffers, the size of the pickle
# Linux writes and reads at most 2 GiB in one call, and IOV_MAX is 1,024.
_MAX_WRITE = 1 << 30
_NAMELESS: int = getattr(os, "O_TMPFILE", 0)  # a directory can't be opened to write without

_numbers = itertools.count()
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class _ItemHeaders(dict[int, bytes]):
    """The header of an ITEM for the size of its body: looked up, as that is the fastest, and made at the first time."""

    def __init__(self, kind: int) -> None:
        self._kind = kind

    def __missing__(self, size: int) -> bytes:
        if size > MAX_FRAME - HEADER_SIZE:
            raise IndexError(f"{size} bytes are too many for a frame")
        header = self[size] = HEADER.pack(HEADER_SIZE + size, self._kind)
        return header


ITEM_HEADERS = _ItemHeaders(ITEM)
OWN_ITEM_HEADERS = _ItemHeaders(ITEM | OWN)


#: How the plain pickler says that it has no way for a type. What else it raises, __reduce__ and signal handlers raised.
REFUSALS = (pickle.PicklingError, TypeError, AttributeError)
#: Within each pickle of a `multiprocessing.connection.Connection`, and what is shorter than that has none. The plain
#: pickler takes it, but for the number of its descriptor, which in another process is of something else.
#: To count it is faster than ``in``, which tries first whether it is a number.
CONNECTION = b"multiprocessing.connection"
SHORTEST_WITH_CONNECTION = 100
#: How `os.write` says that there is more to do: no room now, nobody reads, not open.
MORE_TO_DO = {errno.EAGAIN, errno.EPIPE, errno.EBADF}


def write_now(fd: int, data: bytes) -> bool:
    """Writes a frame; False where it was not written, for a reason that the slow way sees to."""
    try:
        os.write(fd, data)
        return True
    except OSError as error:  # also what a signal handler raises behind a write that succeeded, as a TimeoutError
        if error.errno not in MORE_TO_DO:
            raise
        return False


def frame(kind: int, head: bytes, body: bytes) -> bytes:
    return HEADER.pack(HEADER_SIZE + len(head) + len(body), kind) + head + body


NUDGE_FRAME = frame(NUDGE, b"", b"")


def plain(obj: object, out_of_band: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    """Pickles with the plain pickler, seven times as fast as multiprocessing's; raises REFUSALS where it may not."""
    pickled = pickle.dumps(obj, 5, buffer_callback=out_of_band)
    if CONNECTION in pickled:
        raise pickle.PicklingError
    return pickled


def dumps(obj: object) -> bytes:
    """Pickles with the plain pickler, or else with multiprocessing's, which has more types."""
    try:
        return plain(obj)
    except REFUSALS:
        return bytes(ForkingPickler.dumps(obj, 5))


class Pickled:
    """Stands for an object that is pickled already: what its `__reduce__` does, it shall do once."""

    def __init__(self, body: bytes) -> None:
        self.body = body


def pack(directory: str, kind: int, head: bytes, obj: object, large: bool = False) -> bytes:
    """Returns the frame for ``obj`` to the mailbox ``directory``; a large object has been stored there.

    Whether it is ``large`` is a guess, which makes it faster.
    """
    body, buffers = _pickled(obj, large)
    if not buffers and HEADER_SIZE + len(head) + sum(map(len, body)) <= MAX_FRAME:
        return frame(kind, head, b"".join(body))
    return frame(kind | STORED, head, _stored(directory, body, buffers))


def unpack(directory: str, kind: int, body: bytes) -> Any:
    """The object in a frame's body, which came to the mailbox ``directory``."""
    return load(directory, body) if kind & STORED else pickle.loads(body)


def split_ask(body: bytes) -> tuple[int, bytes, bytes]:
    """What is behind an ASK's header: its number, the asker's address, and the message."""
    number, length = ASK_HEAD.unpack_from(body)
    end = ASK_HEAD.size + length
    return number, body[ASK_HEAD.size : end], body[end:]


class _Mutable(Exception):
    pass


class _Parts(list[bytes]):
    """What a pickler writes to: keeps the parts as they come, of which the large ones are not copied."""

    def write(self, part: object) -> None:
        if type(part) is not bytes:  # a bytearray: between its size and this, another thread may have changed it
            raise _Mutable
        self.append(part)


def _pickled(obj: object, large: bool = True) -> tuple[list[bytes], list[memoryview]]:
    """Pickles; returns the parts of the pickle, and the large buffers out of band."""
    if type(obj) is Pickled:
        return [obj.body], []
    buffers: list[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        buffers.append(view)
        return False

    try:
        if large:
            parts = _Parts()
            try:
                pickle.Pickler(parts, 5, buffer_callback=out_of_band).dump(obj)
                if any(map(_holds_connection, parts)):
                    raise pickle.PicklingError
                return parts, buffers
            except _Mutable:
                buffers.clear()
        return [plain(obj, out_of_band)], buffers
    except REFUSALS:
        buffers.clear()
    import io

    file = io.BytesIO()
    pickler: Any = ForkingPickler  # takes no keywords, and by its stub no callback
    pickler(file, 5, True, out_of_band).dump(obj)
    return [file.getvalue()], buffers


def _holds_connection(part: bytes) -> bool:
    # Bytes and strings of 64 KB and more have parts of their own, which need not be looked through.
    return (len(part) < _LARGE_PART or part.startswith(_FRAMES)) and CONNECTION in part


def _stored(directory: str, body: list[bytes], buffers: list[memoryview]) -> bytes:
    """Writes a pickle and its buffers to a file in the directory; returns its name. Raises as `Channel.post` does."""
    _waiting.expects_large = True
    index = b"".join(_U64.pack(view.nbytes | (_READ_ONLY if view.readonly else 0)) for view in buffers)
    size = sum(map(len, body))
    parts: list[Any] = [_START.pack(_blocks.FREE, len(buffers), size) + index, *body]
    end = _START.size + len(index) + size
    for view in buffers:
        parts += [bytes(-end % _ALIGN), view]
        end += -end % _ALIGN + view.nbytes
    while True:
        name = f"{os.getpid()}.{next(_numbers)}"
        try:
            stored = _blocks.store(directory, name, parts, end, bool(buffers))
            return (stored or _filed(directory, name, parts)).encode()
        except FileExistsError:  # an earlier process had the same id
            pass


def _filed(directory: str, name: str, parts: list[Any]) -> str:
    """Writes the parts to a new file; returns its name. What free blocks take up it may have."""
    path = f"{directory}/{name}"
    try:
        try:
            _store(directory, path, parts)
        except OSError as error:
            if error.errno != errno.ENOSPC or not _blocks.forget():
                raise
            _store(directory, path, parts)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        text = (
            f"{error.strerror} for a message of {sum(map(len, parts))} bytes; {_runtime.VARIABLE} names another place"
        )
        raise OSError(error.errno, text, os.path.dirname(directory)) from None
    return name


def _store(directory: str, path: str, parts: list[Any]) -> None:
    """Writes the parts to a new file."""
    is_open = False

    def write_and_link(fd: int) -> None:
        nonlocal is_open
        is_open = True
        _write_all(fd, parts)
        # Any src_dir_fd will do for an absolute path: with one, Python calls linkat(2), which can follow.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)

    def write(fd: int) -> None:
        try:
            _write_all(fd, parts)
        except BaseException:
            os.unlink(path)
            raise

    try:
        # A nameless file is best: it goes with its writer if that is killed.
        _files.opened(directory, os.O_RDWR | _NAMELESS, write_and_link)
    except OSError as error:
        if is_open or error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        _files.opened(path, os.O_RDWR | os.O_EXCL | os.O_CREAT, write)


def capacity(fifo: int) -> int:
    """The most that one read can bring: it depends on the machine's page size."""
    return fcntl.fcntl(fifo, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 65536


def drop(directory: str, frame: bytes, head: int = 0) -> None:
    """Removes the payload of a frame that was not sent."""
    if frame[2] & STORED:
        with contextlib.suppress(OSError, ValueError):  # gone, or never one
            _blocks.release(claim(directory, frame[HEADER_SIZE + head :]))


def sweep(directory: str, read_on: Callable[[], Iterable[tuple[int, bytes]]]) -> None:
    """Removes the payloads of processes that were killed before they sent their names.

    Kinds and bodies of all frames that have come to the mailbox, ``read_on`` returns.
    """
    try:
        names = [name for name in os.listdir(directory) if _is_of_dead(name)]
        if names:
            sent = set()
            for kind, body in read_on():
                with contextlib.suppress(struct.error):  # rubbish
                    if kind & STORED:
                        sent.add(split_ask(body)[2] if kind & KIND == ASK else body)
            for name in names:
                if name.encode() not in sent:
                    _runtime.unlink(f"{directory}/{name}")
    except OSError as error:  # no descriptor left to look with, or no room to read on
        if error.errno is None:  # a signal handler's
            raise


def _is_of_dead(name: str) -> bool:
    pid = name.partition(".")[0]
    return pid.isdigit() and not _waiting.is_running(int(pid))


def load(directory: str, name: bytes) -> Any:
    """Loads what `pack` stored, and removes it."""
    return read(claim(directory, name))


def claim(directory: str, name: bytes) -> mmap.mmap:
    """Opens what `pack` stored, and removes its name, also where it can't be opened: it goes with its reader."""
    try:
        mapping = attach(directory, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(_path(directory, name))
        raise
    _blocks.claim(directory, _checked(name), mapping)
    return mapping


def attach(directory: str, name: bytes) -> mmap.mmap:
    """Opens what `pack` stored, for its only reader to load with `loads`; it stays there until `give_back`."""
    return _blocks.attach(directory, _checked(name))


def give_back(directory: str, name: bytes, mapping: mmap.mmap) -> None:
    """Removes what was opened, whether it was loaded or not. Only who removes the name releases it: never twice."""
    try:
        _blocks.claim(directory, _checked(name), mapping)
    except OSError as error:
        if error.errno is None:  # a signal handler's
            raise
        return
    _blocks.release(mapping)


def peek(directory: str, name: bytes) -> bytes:
    """The pickle, without its large buffers, of what `pack` stored; it stays there."""
    with open(_path(directory, name), "rb") as file:
        _, count, size = _START.unpack(file.read(_START.size))
        file.seek(8 * count, os.SEEK_CUR)
        return file.read(size)


def read(mapping: mmap.mmap) -> Any:
    """Loads the object that `pack` stored and this process has claimed, and gives the memory back."""
    try:
        return loads(mapping)
    finally:
        _blocks.release(mapping)


def loads(mapping: mmap.mmap) -> Any:
    """Loads the object that `pack` stored."""
    _waiting.expects_large = True
    view = memoryview(mapping)
    _, count, size = _START.unpack_from(view)
    start = _START.size + 8 * count
    end = start + size
    buffers = []
    keep = count > 0 and len(_mappings) < min(_MAX_MAPPINGS, _descriptors() // 4)
    for i in range(count):
        entry: int = _U64.unpack_from(view, _START.size + 8 * i)[0]
        length = entry & ~_READ_ONLY
        end += -end % _ALIGN
        part = view[end : end + length]
        end += length
        if not keep:
            part = memoryview(bytearray(part))
        buffers.append(part.toreadonly() if entry & _READ_ONLY else part)
    if keep:
        _mappings.add(mapping)
    return pickle.loads(view[start : start + size], buffers=buffers)


def _descriptors() -> int:
    """How many this process may have."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _path(directory: str, name: bytes) -> str:
    return f"{directory}/{_checked(name)}"


def _checked(name: bytes) -> str:
    if not name.replace(b".", b"").isdigit():
        raise ValueError(f"not the name of a payload: {name!r}")
    return name.decode()


def _write_all(fd: int, parts: list[Any]) -> None:
    for start in range(0, len(parts), 512):
        pending = [memoryview(part).cast("B") for part in parts[start : start + 512] if len(part)]
        while pending:
            batch, total = [], 0
            for view in pending:
                batch.append(view[: _MAX_WRITE - total])
                total += batch[-1].nbytes
                if total == _MAX_WRITE:
                    break
            written = os.writev(fd, batch)
            while pending and written >= pending[0].nbytes:
                written -= pending.pop(0).nbytes
            if written:
                pending[0] = pending[0][written:]
