"""Blocks: shared memory that is used again, and never while somebody has it."""

from __future__ import annotations

import errno
import gc
import os
import pathlib
import pickle
import random
import shutil
import signal
import threading
from queue import Full

import pytest
from mailbox_workers import die
from support import LIMIT, Recorder, free_descriptors

from pactor import Actor, Mailbox, _blocks, _runtime, _wire, ask

SMALL, LARGE = 100_000, 1_000_000
NEARLY_FULL = os.statvfs_result([4096, 4096, 10**6, 1000, 1000, 9, 9, 9, 0, 255])


@pytest.fixture(autouse=True)
def new_blocks():
    """Those of an earlier test do not count."""
    del _blocks._own[:]
    _blocks._known.clear()
    _blocks._no_room_until = 0.0


@pytest.fixture
def mailbox():
    return Mailbox()


def paths():
    return [block.path for block in _blocks._own]


def buffer(byte):
    return pickle.PickleBuffer(bytes([byte]) * LARGE)


def test_memory_that_is_given_back_is_used_again(mailbox):
    for number in range(10):
        mailbox.put(bytes([number]) * LARGE)
        assert bytes([number]) * LARGE == mailbox.get()
        mailbox.put(buffer(number))
        assert bytes([number]) * LARGE == bytes(mailbox.get())
    assert 1 == len(paths())


def test_between_processes_too(context):
    with Actor(Recorder(), context=context) as actor:
        for number in range(10):
            value = bytes([number]) * LARGE
            assert value == ask(actor.proxy.echo, value).result(LIMIT)
    assert 1 == len(paths())


def used(mailbox, size, times):
    """The blocks that were used to send and receive so often."""
    found = []
    for number in range(times):
        mailbox.put(bytes([number]) * size)
        found.append(paths()[-1])
        assert bytes([number]) * size == mailbox.get()
    return found


def test_small_ones_take_turns(mailbox):
    """What was read last is in the reader's cache, and slow to overwrite."""
    first, second = (used(mailbox, SMALL, 8) for _ in range(2))
    assert 8 == len(set(first)) and first == second


def test_of_large_ones_the_last_is_used_again(mailbox):
    """More of them than one would be in no cache, and more than a receiver keeps mapped."""
    for _ in range(5):
        mailbox.put(bytes(LARGE))
    for _ in range(5):
        mailbox.get()
    before = paths()
    assert {before[-1]} == {*used(mailbox, LARGE, 10)}
    used(mailbox, 3 * LARGE, 1)
    assert before == paths()[:-1]  # what does not fit keeps its place


def test_what_is_used_again_is_not_opened_again(mailbox, monkeypatch):
    for size in (SMALL, LARGE):
        used(mailbox, size, 8)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", lambda *_: _raise(AssertionError))
            used(mailbox, size, 20)


def test_those_of_another_size_take_no_part(mailbox):
    used(mailbox, SMALL, 10)
    first, second = (used(mailbox, 3 * SMALL, 3) for _ in range(2))
    assert 3 == len(set(first)) and first == second


def test_a_receiver_knows_them_in_any_mailbox():
    for _ in range(20):
        used(Mailbox(), SMALL, 1)
    assert 8 == len(_blocks._known)


def test_what_a_signal_handler_raises_is_raised(mailbox, monkeypatch):
    """A TimeoutError is an OSError, but not of the system."""
    for name in ("link", "statvfs"):
        with monkeypatch.context() as patched, pytest.raises(TimeoutError):
            patched.setattr(os, name, lambda *_: _raise(TimeoutError("of the handler")))
            mailbox.put(bytes(SMALL))
    assert 0 == mailbox.qsize()


def test_where_there_is_no_room_for_another_one_they_take_no_turns(mailbox, monkeypatch):
    (first,) = used(mailbox, SMALL, 1)
    asked = []
    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or NEARLY_FULL)
    assert {first} == {*used(mailbox, SMALL, 20)}
    assert 1 == len(asked)  # not each time


def test_without_descriptors_those_that_are_there_are_used(mailbox):
    for size in (SMALL, LARGE):
        first = used(mailbox, size, 2)
        with free_descriptors(0):
            assert {*used(mailbox, size, 3)} <= {*first}


def test_what_is_queued_or_lives_is_not_overwritten(mailbox):
    mailbox.put(bytes(LARGE))
    mailbox.get()
    values = [bytes([number]) * LARGE for number in range(5)]
    for value in values[:2]:
        mailbox.put(pickle.PickleBuffer(value))
    for value in values[2:]:
        mailbox.put(value)
    alive = [mailbox.get() for _ in range(2)]
    assert values[2:] == [mailbox.get() for _ in range(3)]
    for _ in range(5):  # all that are free
        mailbox.put(buffer(9))
    for _ in range(5):
        mailbox.get()
    assert values[:2] == [*map(bytes, alive)]


def test_what_lives_is_not_overwritten_while_it_lives_in_a_forked_child(mailbox):
    mailbox.put(buffer(1))
    alive = mailbox.get()
    go, say = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(go[0], 1)
        os.write(say[1], b"y" if bytes(alive) == b"\1" * LARGE else b"n")
        os._exit(0)
    del alive
    for _ in range(10):
        mailbox.put(buffer(2))
        mailbox.get()
    os.write(go[1], b"x")
    assert b"y" == os.read(say[0], 1)
    os.waitpid(child, 0)
    for fd in (*go, *say):
        os.close(fd)


def test_a_forked_child_has_blocks_of_its_own(mailbox, start, context):
    mailbox.put(bytes(LARGE))
    mailbox.get()
    child = os.fork()
    if not child:
        os._exit(len(paths()))
    assert (child, 0) == os.waitpid(child, 0)
    processes = [start(_put_many, mailbox, byte) for byte in (1, 2)]
    _put_many(mailbox, 3)
    got = [mailbox.get(timeout=LIMIT) for _ in range(60)]
    assert [set(value) for value in got] == [{value[0]} for value in got]
    for process in processes:
        process.join()


def _put_many(mailbox, byte):
    for _ in range(20):
        mailbox.put(bytes([byte]) * LARGE)


def test_threads_do_not_share_a_block(mailbox):
    threads = [threading.Thread(target=_put_many, args=(mailbox, byte)) for byte in range(4)]
    for thread in threads:
        thread.start()
    got = [mailbox.get(timeout=LIMIT) for _ in range(80)]
    assert len(_blocks._own) <= _blocks._COUNT + len(threads)
    for thread in threads:
        thread.join()
    assert [set(value) for value in got] == [{value[0]} for value in got]


@pytest.mark.parametrize("where", ["before pactor._blocks:release", "after pactor._blocks:claim"])
def test_what_a_killed_receiver_had_is_not_used_again(mailbox, start, where):
    mailbox.put(b"x" * LARGE)
    victim = start(die, where, mailbox.get)
    victim.join(LIMIT)
    assert -signal.SIGKILL == victim.exitcode
    for number in range(5):
        mailbox.put(bytes([number]) * LARGE)
        assert bytes([number]) * LARGE == mailbox.get()
    assert 2 == len(paths())


def test_a_block_is_given_back_by_one_store():
    """A slice would be more than one, and between them the sender may use it again."""
    mapping = {}
    _blocks.release(mapping)
    assert {0: _blocks.FREE} == mapping


def test_all_together_are_bounded(mailbox):
    sizes = random.Random(0).choices(range(100_000, _blocks.LARGEST, 1000), k=40)
    for ahead in (1, 10):
        queue = []
        for size in sizes:
            mailbox.put(bytes(size))
            queue.append(size)
            assert 0 < len(_blocks._own) <= _blocks._COUNT
            assert sum(map(len, _blocks._own)) <= _blocks._TOTAL
            if len(queue) == ahead:
                assert queue.pop(0) == len(mailbox.get())
                assert len(_blocks._known) <= _blocks._COUNT_KNOWN
                assert sum(map(len, _blocks._known.values())) <= _blocks._TOTAL_KNOWN
        assert queue == [len(mailbox.get()) for _ in queue]


def test_what_is_larger_or_where_there_is_little_room_goes_into_a_file(mailbox, monkeypatch):
    mailbox.put(bytes(_blocks.LARGEST))
    assert bytes(_blocks.LARGEST) == mailbox.get()
    monkeypatch.setattr(os, "statvfs", lambda path: NEARLY_FULL)
    mailbox.put(bytes(LARGE))
    assert bytes(LARGE) == mailbox.get()
    assert [] == paths()


def test_what_was_not_sent_or_can_not_be_loaded_leaves_its_block_free():
    mailbox = Mailbox(1)
    mailbox.put(0)
    for _ in range(3):
        with pytest.raises(Full):
            mailbox.put(bytes(LARGE), block=False)
    assert 0 == mailbox.get()
    for _ in range(3):
        mailbox.put(Unloadable(bytes(LARGE)))
        with pytest.raises(ZeroDivisionError):
            mailbox.get()
    assert 1 == len(paths())


class Unloadable:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return _fail, (self.data,)


def _fail(_data):
    raise ZeroDivisionError


def test_what_is_not_sendable_after_all_uses_no_block(mailbox):
    with pytest.raises(TypeError):
        mailbox.put([bytes(LARGE), (_ for _ in ())])
    assert [] == paths()


def test_a_process_takes_its_blocks_with_it(context, start, mailbox):
    process = start(_put_many, mailbox, 1)
    for _ in range(20):
        mailbox.get(timeout=LIMIT)
    process.join(LIMIT)
    assert 0 == process.exitcode
    assert [] == [*pathlib.Path(_runtime.home().path).glob(f"blocks.{process.pid}.*")]


def test_those_of_a_killed_process_are_removed_when_the_next_is_made(mailbox):
    left = pathlib.Path(_runtime.home().path, f"blocks.{2**22 + 1}.0")
    left.mkdir()
    (left / "1").write_bytes(bytes(100))
    mailbox.put(bytes(LARGE))
    assert 1 == len(paths())
    assert not left.exists()
    mailbox.get()


def test_a_file_that_is_cut_short_harms_nobody(mailbox):
    name = _wire._stored(mailbox.directory, *_wire._pickled(bytes(LARGE)))
    path = f"{mailbox.directory}/{name.decode()}"
    os.unlink(path)
    pathlib.Path(path).write_bytes(b"\1")
    with pytest.raises(Exception, match="requires a buffer"):
        _wire.load(mailbox.directory, name)


def test_what_interrupts_the_choice_of_a_block_does_not_get_the_same(mailbox, monkeypatch):
    mailbox.put(bytes(LARGE))
    mailbox.get()
    is_free = _blocks._Block.is_free
    interruptions = iter([True])

    def interrupted(block):
        free = is_free(block)
        if next(interruptions, False):
            mailbox.put(b"first" + bytes(LARGE))
        return free

    monkeypatch.setattr(_blocks._Block, "is_free", interrupted)
    mailbox.put(b"x" * LARGE)
    assert b"first" + bytes(LARGE) == mailbox.get()
    assert b"x" * LARGE == mailbox.get()


class Shrinks:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        del self.data[10:]
        return Shrinks, (b"",)


@pytest.mark.parametrize("size", [LARGE, _blocks.LARGEST + 1])
def test_what_changes_while_it_is_pickled_comes_as_it_was(mailbox, size):
    for _ in range(2):
        data = bytearray(b"x" * size)
        mailbox.put([data, Shrinks(data)])
        assert b"x" * size == mailbox.get()[0]


class Late:
    """Looks at what it had when it is collected."""

    def __init__(self, data, mailbox, seen):
        self.all = self, data, mailbox, seen

    def __del__(self):
        _, data, mailbox, seen = self.all
        mailbox.put(pickle.PickleBuffer(b"y" * LARGE))
        seen.append(bytes(data[:3]))


def test_what_lives_in_a_cycle_is_not_overwritten_while_that_is_collected(mailbox):
    for value in (b"x", b"z"):
        mailbox.put(pickle.PickleBuffer(value * LARGE))
    seen = []
    data = mailbox.get()
    Late(data, mailbox, seen)
    del data
    gc.collect()
    assert [b"xxx"] == seen
    assert [b"z", b"y"] == [bytes(mailbox.get())[:1] for _ in range(2)]


def test_what_is_small_does_not_keep_a_large_block(mailbox):
    mailbox.put(bytes(30 * LARGE))
    mailbox.get()
    for size in (100_000, 5_000):
        mailbox.put(bytes(size))
        assert size == len(mailbox.get())
    assert 2 == len(paths())  # none for the smallest


def test_those_that_never_come_back_make_room_after_a_while(mailbox, monkeypatch):
    for _ in range(20):
        mailbox.put(bytes(LARGE))
    first = paths()
    assert _blocks._COUNT == len(first)
    monkeypatch.setattr(_blocks, "_LOST", -1.0)
    mailbox.put(bytes(LARGE))
    assert first != paths()
    assert [bytes(LARGE)] * 21 == [mailbox.get() for _ in range(21)]


def test_where_there_is_no_room_for_a_file_the_free_blocks_make_some(mailbox, monkeypatch):
    mailbox.put(bytes(LARGE))
    mailbox.get()
    store = _wire._store

    def full(*arguments):
        if paths():
            raise OSError(errno.ENOSPC, "full")
        store(*arguments)

    monkeypatch.setattr(_wire, "_store", full)
    mailbox.put(bytes(5_000))
    assert bytes(5_000) == mailbox.get()
    mailbox.put(bytes(LARGE))  # one that is not free
    with pytest.raises(OSError, match=f"full for a message of 5... bytes.*PACTOR_DIR.*{_runtime.home().path}"):
        mailbox.put(bytes(5_000))
    assert bytes(LARGE) == mailbox.get()


def test_a_directory_that_could_not_be_made_or_is_gone_is_made_again(mailbox, monkeypatch):
    monkeypatch.setattr(_runtime, "_blocks_path", None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", lambda *_: _raise(OSError(errno.ENOSPC, "full")))
        mailbox.put(bytes(LARGE))
    assert [] == paths()
    mailbox.put(bytes(LARGE))
    mailbox.get()
    mailbox.get()
    (path,) = paths()
    shutil.rmtree(os.path.dirname(path))
    for _ in range(3):
        mailbox.put(bytes(LARGE))
        assert bytes(LARGE) == mailbox.get()
    assert 1 == len(paths()) and [path] != paths()


def _raise(error):
    raise error


def test_without_descriptors_what_is_not_sent_leaves_no_file():
    mailbox = Mailbox(1)
    mailbox.put(bytes(LARGE))
    mailbox.get()
    mailbox.put(0)
    before = sorted(os.listdir(mailbox.directory))
    with free_descriptors(0), pytest.raises(Full):
        mailbox.put(bytes(LARGE), block=False)
    assert before == sorted(os.listdir(mailbox.directory))


def test_what_can_not_be_mapped_is_an_error_and_no_more(tmp_path):
    """With one descriptor it can be opened, and mmap wants another."""
    path = tmp_path / "block"
    path.write_bytes(bytes([_blocks.INHABITED]) * LARGE)
    with free_descriptors(1), pytest.raises(OSError, match="Too many open files"):
        _blocks.attach(str(tmp_path), "block")


@pytest.mark.parametrize("size", [LARGE, _blocks.LARGEST + 1])  # in a block, in a file of its own
def test_what_a_forked_child_writes_into_what_lives_there_is_its_own(mailbox, size):
    mailbox.put(pickle.PickleBuffer(bytearray(size)))
    value = mailbox.get()
    child = os.fork()
    if not child:
        value[0] = value[-1] = 1
        os._exit(value[0])
    assert 1 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (0, 0) == (value[0], value[-1])
    value[0] = 2
    assert 2 == value[0]
