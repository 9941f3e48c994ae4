"""Blocks: shared memory that is used again, and never while somebody has it."""

from __future__ import annotations

import os
import pathlib
import pickle
import random
import signal
import threading
from queue import Full

import pytest
from mailbox_workers import die
from support import LIMIT, Recorder

from pactor import Actor, Mailbox, _blocks, _runtime, _wire, ask

LARGE = 1_000_000


@pytest.fixture(autouse=True)
def new_blocks():
    """Those of an earlier test do not count."""
    del _blocks._blocks[:]
    _blocks._known.clear()


@pytest.fixture
def mailbox():
    return Mailbox()


def paths():
    return [block.path for block in _blocks._blocks]


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


def test_all_together_are_bounded(mailbox):
    sizes = random.Random(0).choices(range(100_000, _blocks.LARGEST, 1000), k=40)
    for size in sizes:
        mailbox.put(bytes(size))
        assert len(_blocks._blocks) <= _blocks._COUNT
        assert sum(map(len, _blocks._blocks)) <= _blocks._TOTAL
    assert sizes == [len(mailbox.get()) for _ in sizes]
    assert len(_blocks._known) <= _blocks._COUNT
    assert sum(map(len, _blocks._known.values())) <= _blocks._TOTAL


def test_what_is_larger_or_where_there_is_little_room_goes_into_a_file(mailbox, monkeypatch):
    mailbox.put(bytes(_blocks.LARGEST))
    assert bytes(_blocks.LARGEST) == mailbox.get()
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([4096, 4096, 10**6, 1000, 1000, 9, 9, 9, 0, 255]))
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
    assert [] == [name for name in os.listdir(_runtime.home().path) if name == f"blocks.{process.pid}"]


def test_those_of_a_killed_process_are_removed_by_the_next(monkeypatch):
    left = pathlib.Path(_runtime.home().path, f"blocks.{2**22 + 1}")
    left.mkdir()
    (left / "1").write_bytes(bytes(100))
    monkeypatch.setattr(_runtime, "_blocks", None)
    made = _runtime.blocks(str(left.parent / "mailbox"))
    assert os.path.isdir(made)
    assert not left.exists()


def test_a_file_that_is_cut_short_harms_nobody(mailbox):
    name = _wire._stored(mailbox.directory, *_wire._pickled(bytes(LARGE)))
    path = f"{mailbox.directory}/{name.decode()}"
    os.unlink(path)
    pathlib.Path(path).write_bytes(b"\1")
    with pytest.raises(Exception, match="requires a buffer"):
        _wire.load(mailbox.directory, name)
