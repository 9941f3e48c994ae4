"""What travels: frames, and the payloads that are too large for one."""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import pickle
import random
import resource
from multiprocessing.reduction import ForkingPickler

import pytest
from support import writable_buffer

from pactor import _wire

LARGE = 100_000


def deliver(directory, obj):
    """What the receiver loads of a stored object."""
    return _wire.load(directory, _wire.store(directory, obj))


def names(directory):
    return [path.name for path in directory.iterdir()]


def no_nameless_files(monkeypatch):
    """As where the file system has no O_TMPFILE."""
    opened = os.open

    def refuse(path, flags, *arguments):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return opened(path, flags, *arguments)

    monkeypatch.setattr(_wire.os, "open", refuse)


@pytest.fixture(params=["", "without O_TMPFILE"])
def directory(request, tmp_path, monkeypatch):
    if request.param:
        no_nameless_files(monkeypatch)
    return tmp_path


def test_a_body_of_any_size_up_to_pipe_buf_is_a_frame_of_its_own(tmp_path):
    for size in range(4000, 4200):
        packed = _wire.pack(tmp_path, _wire.ITEM, b"head", bytes(size))
        ((kind, rest),) = _wire.split(packed)
        fits = _wire.HEADER_SIZE + 4 + len(pickle.dumps(bytes(size), 5)) <= _wire.MAX_FRAME
        assert (_wire.ITEM | (0 if fits else _wire.STORED), b"head") == (kind, rest[:4])
        assert len(packed) <= _wire.MAX_FRAME
        assert bytes(size) == _wire.unpack(tmp_path, kind, rest[4:])
        assert [] == names(tmp_path)


def test_splits_what_a_read_brought_and_leaves_rubbish_out():
    frames = [(_wire.ITEM, b""), (_wire.VALUE, b"x" * 300), (_wire.CLOSE, b"yz")]
    data = b"".join(_wire.frame(kind, rest[:1], rest[1:]) for kind, rest in frames)
    assert frames == [*_wire.split(data)]
    for rubbish in (b"\0" * 9, b"\2\0\1", b"\xff\xff\1abc", b"\4\0", _wire.frame(_wire.ITEM, b"", b"abc")[:-1]):
        assert frames == [*_wire.split(data + rubbish)]
    for seed in range(100):
        list(_wire.split(random.Random(seed).randbytes(seed)))


@pytest.mark.parametrize(
    "obj",
    [
        None,
        b"x" * LARGE,
        {"a": ["b" * LARGE, b"c" * (3 * LARGE)], "d": bytearray(LARGE)},
        [bytes([i]) * 70_000 for i in range(20)],
    ],
    ids=["small", "bytes", "nested", "many"],
)
def test_a_stored_object_comes_back_and_leaves_nothing(directory, obj):
    assert obj == deliver(directory, obj)
    assert [] == names(directory)


@pytest.mark.parametrize("size", [0, 1, _wire.OUT_OF_BAND - 1, _wire.OUT_OF_BAND, _wire.OUT_OF_BAND + 1, 10**6])
@pytest.mark.parametrize("count", [1, 3, 600])
def test_buffers_come_back_in_order_at_their_alignment(directory, size, count):
    if size * count > 50_000_000:
        count = 50
    sent = [bytes([i % 256]) * (size + i % 3) for i in range(count)]
    found = deliver(directory, [pickle.PickleBuffer(part) for part in sent])
    assert sent == [bytes(part) for part in found]
    if size >= _wire.OUT_OF_BAND:
        buffers = [pickle.PickleBuffer(part).raw() for part in found]
        assert {0} == {address(buffer) % 64 for buffer in buffers}
        assert all(is_mapped(buffer) for buffer in buffers)
    assert [] == names(directory)


def address(buffer):
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(buffer.obj)) if not buffer.readonly else 0
