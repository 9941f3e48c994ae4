"""What travels: frames, and the payloads that are too large for one."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import pickle
import random
import resource
from multiprocessing.reduction import ForkingPickler

import pytest
from support import frames_in, limited, store

from pactor import _wire

LARGE = 100_000


def deliver(directory, obj):
    """What the receiver loads of a stored object."""
    return _wire.load(directory, store(directory, obj))


def names(directory):
    return os.listdir(directory)


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
    return str(tmp_path)


def test_a_body_of_any_size_up_to_pipe_buf_is_a_frame_of_its_own(tmp_path):
    for size in range(4000, 4200):
        packed = _wire.pack(tmp_path, _wire.ITEM, b"head", bytes(size))
        ((kind, rest),) = frames_in(packed)
        fits = _wire.HEADER_SIZE + 4 + len(pickle.dumps(bytes(size), 5)) <= _wire.MAX_FRAME
        assert (_wire.ITEM | (0 if fits else _wire.STORED), b"head") == (kind, rest[:4])
        assert len(packed) <= _wire.MAX_FRAME
        assert bytes(size) == _wire.unpack(tmp_path, kind, rest[4:])
        assert [] == names(tmp_path)


def test_splits_what_a_read_brought_and_leaves_rubbish_out():
    frames = [(_wire.ITEM, b""), (_wire.VALUE, b"x" * 300), (_wire.CLOSE, b"yz")]
    data = b"".join(_wire.frame(kind, rest[:1], rest[1:]) for kind, rest in frames)
    assert frames == [*frames_in(data)]
    for rubbish in (b"\0" * 9, b"\2\0\1", b"\xff\xff\1abc", b"\4\0", _wire.frame(_wire.ITEM, b"", b"abc")[:-1]):
        assert frames == [*frames_in(data + rubbish)]
    for seed in range(100):
        list(frames_in(random.Random(seed).randbytes(seed)))


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
def test_large_buffers_are_mapped_at_their_alignment_and_not_copied(directory, size):
    sent = [bytearray([i]) * (size + i) for i in range(3)]
    found = deliver(directory, [pickle.PickleBuffer(part) for part in sent])
    assert sent == [bytes(part) for part in found]
    large = [part for part in found if len(part) >= _wire.OUT_OF_BAND]
    assert {0} >= {ctypes.addressof(ctypes.c_char.from_buffer(part)) % 64 for part in large}
    assert all(isinstance(part.obj, mmap.mmap) for part in large)
    assert [] == names(directory)


def test_what_was_read_only_is_and_what_was_not_is_not(directory):
    found = deliver(directory, [pickle.PickleBuffer(kind(LARGE)) for kind in (bytes, bytearray)])
    assert [True, False] == [part.readonly for part in found]
    found[1][5] = 7
    assert (b"\0", b"\7") == (found[1][4:5], found[1][5:6])


def test_buffers_outlive_one_another(directory):
    """One mapping holds them all; it goes with the last."""
    *_, last = deliver(directory, [pickle.PickleBuffer(bytes([i]) * LARGE) for i in range(4)])
    assert bytes([3]) * LARGE == last


@pytest.mark.parametrize(("count", "most"), [(1100, 1 << 30), (3, 1), (40, 700), (40, 701)])
def test_writes_as_often_as_the_system_needs_it_to(directory, monkeypatch, count, most):
    """More parts than one call takes, and calls that write less than they were given."""
    monkeypatch.setattr(_wire, "OUT_OF_BAND", 10)
    monkeypatch.setattr(_wire, "_MAX_WRITE", most)
    sent = [bytes([i % 256]) * (10 + i % 99) for i in range(count)]
    assert sent == deliver(directory, [pickle.PickleBuffer(part) for part in sent])


def test_goes_on_where_a_write_was_cut_short(directory, monkeypatch):
    writev = os.writev
    monkeypatch.setattr(_wire.os, "writev", lambda fd, parts: writev(fd, [parts[0][: max(1, len(parts[0]) // 3)]]))
    sent = [b"a" * 1000, pickle.PickleBuffer(b"b" * LARGE)]
    assert [sent[0], sent[1].raw()] == deliver(directory, sent)


def test_has_few_mappings_however_many_arrays_are_alive(directory, monkeypatch):
    """Each keeps a descriptor open: the rest is copied, and gives its memory back."""
    monkeypatch.setattr(_wire, "_MAX_MAPPINGS", len(_wire._mappings) + 5)
    before = len(os.listdir("/proc/self/fd"))
    alive = [deliver(directory, pickle.PickleBuffer(bytearray([i]) * LARGE)) for i in range(20)]
    assert before + 5 == len(os.listdir("/proc/self/fd"))
    assert [bytes([i]) * LARGE for i in range(20)] == alive
    alive[19][0] = 1
    assert not alive[19].readonly
    del alive[:10]
    assert isinstance(deliver(directory, pickle.PickleBuffer(bytes(LARGE))).obj, mmap.mmap)


class OnlyMultiprocessing:
    """Has a reduction that only multiprocessing's pickler knows, as connections and locks have."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        raise TypeError("only multiprocessing's pickler")


ForkingPickler.register(OnlyMultiprocessing, lambda obj: (list, ([obj.value],)))


@pytest.mark.parametrize("value", ["small", pickle.PickleBuffer(b"x" * LARGE)], ids=["small", "large"])
def test_takes_what_only_multiprocessing_can_pickle(directory, value):
    packed = _wire.pack(directory, _wire.ITEM, b"", [value, OnlyMultiprocessing(value)])
    ((kind, rest),) = frames_in(packed)
    if value == "small":
        assert [value, [value]] == _wire.unpack(directory, kind, rest)
    else:
        assert LARGE < os.stat(f"{directory}/{rest.decode()}").st_size < 3 * LARGE
        plain, (found,) = _wire.unpack(directory, kind, rest)
        assert plain == found == value.raw()
        assert isinstance(found.obj, mmap.mmap)


class Unpicklable:
    """Pickles a large part of itself, and then raises."""

    def __init__(self, error):
        self.error = error
        self.calls = 0

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("small", [True, False])
def test_raises_what_pickling_raises_and_leaves_nothing(directory, small):
    obj = [b"" if small else pickle.PickleBuffer(b"x" * LARGE), Unpicklable(ZeroDivisionError("mine"))]
    with pytest.raises(ZeroDivisionError, match="mine"):
        _wire.pack(directory, _wire.ITEM, b"", obj)
    with pytest.raises(ZeroDivisionError, match="mine"):
        store(directory, obj)
    assert [] == names(directory)


def test_raises_oserror_where_there_is_no_room_and_leaves_nothing(directory):
    with limited(resource.RLIMIT_FSIZE, LARGE), pytest.raises(OSError) as caught:
        store(directory, b"x" * (2 * LARGE))
    assert errno.EFBIG == caught.value.errno
    assert [] == names(directory)


def test_raises_oserror_where_there_is_no_descriptor_and_leaves_nothing(directory):
    with limited(resource.RLIMIT_NOFILE, 0), pytest.raises(OSError) as caught:
        store(directory, b"x" * LARGE)
    assert errno.EMFILE == caught.value.errno
    assert [] == names(directory)


def test_raises_filenotfounderror_where_the_mailbox_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        store(tmp_path / "gone", b"x" * LARGE)


def test_leaves_alone_what_an_earlier_process_with_the_same_id_stored(directory, monkeypatch):
    stored = []
    for i in range(3):
        monkeypatch.setattr(_wire, "_numbers", itertools.count())
        stored.append(store(directory, [i]))
    assert [[0], [1], [2]] == [_wire.load(directory, name) for name in stored]
    assert [] == names(directory)


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"fifo", b"inbox", b"note", b"sub", b"../secret", b"/secret", b"\0", b"\xff", b"1" * 4000],
)
def test_refuses_a_name_that_is_no_payload(tmp_path, name):
    """It could be another's, or what the mailbox itself lives on."""
    mailbox = tmp_path / "mailbox"
    (mailbox / "sub").mkdir(parents=True)
    for path in (mailbox / "fifo", mailbox / "inbox", mailbox / "note", tmp_path / "secret"):
        path.write_bytes(b"\0" * 16 + pickle.dumps(1))
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises((OSError, ValueError)):
        _wire.load(mailbox, name)
    assert before == sorted(map(str, tmp_path.rglob("*")))


def test_does_not_follow_a_link(tmp_path):
    store(tmp_path, 1)
    (stored,) = tmp_path.iterdir()
    (tmp_path / "mailbox").mkdir()
    (tmp_path / "mailbox" / "1.1").symlink_to(stored)
    with pytest.raises(OSError):
        _wire.load(tmp_path / "mailbox", b"1.1")
    assert stored.exists()


@pytest.mark.parametrize("cut", [0, 1, 8, 15, 16, 24, 100])
def test_a_payload_that_is_not_whole_raises(tmp_path, cut):
    name = store(tmp_path, [b"x" * LARGE, pickle.PickleBuffer(b"x" * LARGE)])
    path = tmp_path / name.decode()
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Exception):  # noqa: B017  # whichever says so first
        bytes(_wire.load(tmp_path, name)[1])
    assert [] == names(tmp_path)


@pytest.mark.parametrize("head", [b"", b"head"])
def test_drops_the_payload_of_a_frame_and_nothing_else(directory, head):
    small, large = (_wire.pack(directory, _wire.ITEM, head, bytes(size)) for size in (1, LARGE))
    assert 1 == len(names(directory))
    _wire.drop(directory, small, len(head))
    assert 1 == len(names(directory))
    for _ in range(2):
        _wire.drop(directory, large, len(head))
    assert [] == names(directory)


@pytest.mark.parametrize("name", [b"", b"..", b"fifo", b"../1", b"\0", b"1.1", b"1" * 4000])
def test_a_name_that_is_no_payload_drops_nothing_and_raises_nothing(tmp_path, name):
    """A frame that nobody waits for is dropped; what it says must not be raised to those who wait for others."""
    (tmp_path / "fifo").touch()
    _wire.drop(tmp_path, _wire.frame(_wire.VALUE | _wire.STORED, b"", name))
    assert ["fifo"] == names(tmp_path)


# What numpy makes of it.


@pytest.mark.parametrize(
    "make",
    [
        lambda numpy: numpy.arange(1_000_000),
        lambda numpy: numpy.arange(1_000_000).reshape(100, 10_000).T,
        lambda numpy: numpy.asfortranarray(numpy.ones((300, 400), dtype="f4")),
        lambda numpy: numpy.arange(1_000_000)[::2],
        lambda numpy: numpy.zeros(0),
        lambda numpy: numpy.zeros((0, 5)),
        lambda numpy: numpy.float64(3),
        lambda numpy: numpy.array(["a" * 10, "b"] * 20_000),
        lambda numpy: numpy.array([None, {"a": 1}] * 20_000),
        lambda numpy: numpy.ma.masked_array(numpy.arange(50_000), mask=numpy.arange(50_000) % 2),
        lambda numpy: numpy.zeros(20_000, dtype=[("a", "i4"), ("b", "f8", 3)]),
    ],
)
def test_numpy_arrays_come_back_as_they_were(tmp_path, make):
    numpy = pytest.importorskip("numpy")
    sent = make(numpy)
    found = _wire.load(tmp_path, store(tmp_path, sent))
    assert (type(sent), sent.dtype, sent.shape) == (type(found), found.dtype, found.shape)
    assert (sent == found).all()


def test_a_large_numpy_array_lives_where_its_sender_wrote_it(tmp_path):
    numpy = pytest.importorskip("numpy")
    writable, frozen = numpy.arange(100_000), numpy.arange(100_000)
    frozen.flags.writeable = False
    found = _wire.load(tmp_path, store(tmp_path, [writable, frozen]))
    assert [True, False] == [array.flags.writeable for array in found]
    assert [0, 0] == [array.ctypes.data % 64 for array in found]
    assert all(is_mapped(array.ctypes.data, tmp_path) for array in found)
    found[0] += 1
    assert (writable + 1 == found[0]).all()


def is_mapped(address, directory):
    """Whether there is a file of the directory at the address."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= address < end:
                return str(directory) in line
    return False


@pytest.mark.parametrize("error", [AttributeError("of a handler"), OSError(errno.EINVAL, "of a handler")])
@pytest.mark.parametrize("step", ["_write_all", "link"])
def test_what_fails_behind_the_opening_is_not_written_again(tmp_path, step, error, monkeypatch):
    called = []

    def fail(*_, **__):
        called.append(step)
        raise error

    monkeypatch.setattr(os if step == "link" else _wire, step, fail)
    with pytest.raises(type(error), match="of a handler"):
        _wire._store(str(tmp_path), f"{tmp_path}/7.1", [b"spam"])
    assert ([step], []) == (called, names(tmp_path))


def test_with_few_descriptors_few_arrays_are_mapped(tmp_path):
    with limited(resource.RLIMIT_NOFILE, 4 * len(_wire._mappings) + 200):
        kept = [_wire.load(str(tmp_path), store(tmp_path, pickle.PickleBuffer(bytes(100_000)))) for _ in range(250)]
    assert 50 >= len(_wire._mappings)
    assert {bytes(100_000)} == {bytes(array) for array in kept}
