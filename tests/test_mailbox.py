"""The mailbox: a queue of multiprocessing's by type and behaviour, and what it does beyond that."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import inspect
import itertools
import multiprocessing
import os
import pickle
import sys
import textwrap
import threading
import time
from multiprocessing.queues import Queue
from queue import Empty, Full

import pytest
from mailbox_workers import (
    consume,
    get_into,
    get_nowait_in_a_process,
    get_when_told,
    item,
    keep,
    produce,
    put_all,
    put_two_and_nest_once,
    put_when_told,
    recorded,
)
from support import LIMIT, Recorder, eventually

from pactor import Actor, Mailbox, ask

#: Without a bound and with one: all start methods with the one in which there is more.
BOTH = [("fork", 0), ("fork", 4), ("forkserver", 4), ("spawn", 4)]


def exitcode(process):
    process.join(LIMIT)
    return process.exitcode


def drained(mailbox):
    """All that is in the mailbox, without waiting."""
    return [*iter_items(mailbox)]


def iter_items(mailbox):
    while True:
        try:
            yield mailbox.get_nowait()
        except Empty:
            return


def names(mailbox):
    return sorted(os.listdir(mailbox.directory))


def elapsed(function, *args, **kwargs):
    """The exception that a call raises, and how long that took."""
    start = time.monotonic()
    with pytest.raises((Empty, Full)) as caught:
        function(*args, **kwargs)
    return caught.type, time.monotonic() - start


def is_being_read(mailbox):
    """Whether some process waits for an item."""
    fd = os.open(f"{mailbox.directory}/fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# What multiprocessing.Queue has and does. Many of these are CPython's own tests, Lib/test/_test_multiprocessing.py.


def test_is_a_queue_of_multiprocessing():
    assert isinstance(Mailbox(), Queue)


@pytest.mark.parametrize("name", [name for name in vars(Queue) if not name.startswith("_")])
def test_has_the_methods_of_the_queue_with_their_parameters(name):
    """And inherits none: there is no semaphore that those could use."""

    def parameters(cls):
        return [(each.name, each.default) for each in inspect.signature(getattr(cls, name)).parameters.values()]

    assert parameters(Queue) == parameters(Mailbox)
    assert name in vars(Mailbox)


def test_put(context, start):
    mailbox = Mailbox(maxsize=6)
    go, done = context.Event(), context.Event()
    process = start(get_when_told, mailbox, go, done, 6)
    assert (True, False) == (mailbox.empty(), mailbox.full())
    mailbox.put(1)
    mailbox.put(2, True)
    mailbox.put(3, True, None)
    mailbox.put(4, False)
    mailbox.put(5, False, None)
    mailbox.put_nowait(6)
    assert (False, True) == (mailbox.empty(), mailbox.full())
    for arguments, least in [((7, False), 0), ((7, False, None), 0), ((7, True, 0.05), 0.05), ((7, False, 9), 0)]:
        error, took = elapsed(mailbox.put, *arguments)
        assert error is Full and least <= took < least + 9
    assert Full is elapsed(mailbox.put_nowait, 7)[0]
    go.set()
    assert done.wait(LIMIT)
    assert (True, False) == (mailbox.empty(), mailbox.full())
    assert 0 == exitcode(process)


def test_get(context, start):
    mailbox = Mailbox()
    go, done = context.Event(), context.Event()
    process = start(put_when_told, mailbox, go, done, [2, 3, 4, 5])
    assert mailbox.empty()
    go.set()
    assert done.wait(LIMIT)
    assert not mailbox.empty()
    assert 2 == mailbox.get(True, None)
    assert 3 == mailbox.get(True)
    assert 4 == mailbox.get(timeout=1)
    assert 5 == mailbox.get_nowait()
    assert mailbox.empty()
    for arguments, least in [((False,), 0), ((False, None), 0), ((True, 0.05), 0.05), ((False, 9), 0)]:
        error, took = elapsed(mailbox.get, *arguments)
        assert error is Empty and least <= took < least + 9
    assert Empty is elapsed(mailbox.get_nowait)[0]
    assert 0 == exitcode(process)


def test_a_process_that_is_started_later_puts_too(start):
    mailbox = Mailbox()
    put_all(mailbox, range(10))
    process = start(put_all, mailbox, range(10, 20))
    assert [*range(20)] == [mailbox.get() for _ in range(20)]
    with pytest.raises(Empty):
        mailbox.get(False)
    assert 0 == exitcode(process)


@pytest.mark.parametrize("maxsize", [0, 5])
def test_qsize(maxsize):
    mailbox = Mailbox(maxsize)
    found = [mailbox.qsize()]
    for step in (lambda: mailbox.put(1), lambda: mailbox.put(5), mailbox.get, mailbox.get):
        step()
        found.append(mailbox.qsize())
    assert [0, 1, 2, 1, 0] == found


def test_does_without_the_import_lock(tmp_path, monkeypatch):
    (tmp_path / "imported_by_an_imported_module.py").write_text(
        textwrap.dedent("""
            import pactor
            q = pactor.Mailbox()
            q.put("knock knock")
            assert q.get(timeout=3) == "knock knock"
            q.close()
            del q
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    __import__("imported_by_an_imported_module")
    del sys.modules["imported_by_an_imported_module"]


@pytest.mark.parametrize("method", ["put", "get", "put_nowait", "get_nowait"])
def test_raises_valueerror_once_closed(method):
    mailbox = Mailbox()
    mailbox.put("before")
    mailbox.close()
    with pytest.raises(ValueError, match="is closed"):
        getattr(mailbox, method)(*["foo"] * ("put" in method))


def test_an_unused_closed_mailbox_is_empty_and_a_used_one_does_not_say():
    unused, used = Mailbox(), Mailbox()
    used.put("foo")
    for mailbox in (unused, used):
        mailbox.close()
        mailbox.close()
        mailbox.join_thread()
    assert unused.empty()
    with pytest.raises(OSError, match="is closed"):
        used.empty()


def test_to_join_its_thread_it_must_be_closed():
    mailbox = Mailbox()
    with pytest.raises(AssertionError, match="is not closed"):
        mailbox.join_thread()
    mailbox.cancel_join_thread()
    mailbox.close()
    mailbox.join_thread()


def test_closing_concerns_this_process_alone(start):
    mailbox, results = Mailbox(), Mailbox()
    process = start(get_into, mailbox, results, 1)
    mailbox.put(1)
    mailbox.close()
    assert 1 == results.get(timeout=LIMIT)
    assert 0 == exitcode(process)


def test_works_in_a_process_of_a_process(start):
    assert 0 == exitcode(start(get_nowait_in_a_process, Mailbox()))


def test_a_process_can_pass_its_arguments_on(start):
    mailbox = Mailbox()
    assert 0 == exitcode(start(put_two_and_nest_once, mailbox))
    assert [2, 1] == drained(mailbox)


@pytest.mark.parametrize("maxsize", [-1, 0, None])
def test_without_a_maxsize_it_is_never_full(maxsize):
    mailbox = Mailbox() if maxsize is None else Mailbox(maxsize)
    put_all(mailbox, range(10_000))
    assert not mailbox.full()
    assert 10_000 == mailbox.qsize()


@pytest.mark.parametrize("maxsize", [10**9, 2**31, 2**32 + 5, 2**40, 10**30])
def test_a_maxsize_beyond_the_system_is_a_valueerror_and_leaves_nothing(maxsize):
    with pytest.raises(ValueError, match=str(maxsize)):
        Mailbox(maxsize)


@pytest.mark.parametrize("maxsize", ["3", 2.5, None])
def test_a_maxsize_that_is_no_number_is_a_typeerror_and_leaves_nothing(maxsize):
    with pytest.raises(TypeError):
        Mailbox(maxsize)


@pytest.mark.parametrize(("maxsize", "rounds"), [(1, 5), (2, 5), (5000, 2), (70_000, 1)])
def test_maxsize_counts_items_exactly(maxsize, rounds):
    """Also where that is more than a FIFO holds by default."""
    mailbox = Mailbox(maxsize)
    for _ in range(rounds):
        for number in range(maxsize):
            assert not mailbox.full()
            mailbox.put_nowait(number)
        assert mailbox.full()
        with pytest.raises(Full):
            mailbox.put_nowait("one more")
        assert maxsize == mailbox.qsize()
        if rounds > 1:
            assert [*range(maxsize)] == drained(mailbox)


@pytest.mark.parametrize("maxsize", [61_442, 65_536, 1 << 17])
def test_a_maxsize_at_the_edge_of_a_pipe_s_capacity(maxsize):
    """Which is counted in pages, and the first one takes its place until its last byte is read."""
    mailbox = Mailbox(maxsize)
    for number in range(5000):
        mailbox.put(number)
        assert number == mailbox.get()
    assert 0 == mailbox.qsize()


def test_waits_longer_than_poll_can(start):
    """As for 30 days, in milliseconds."""
    mailbox, results = Mailbox(1), Mailbox()
    timeout = 30 * 24 * 3600
    process = start(get_into, mailbox, results, 3)
    for number in range(3):
        mailbox.put(number, timeout=timeout)
    assert [0, 1, 2] == [results.get(timeout=timeout) for _ in range(3)]
    assert 0 == exitcode(process)


# What it does beyond that.


def test_can_be_sent_in_messages(context):
    """In a mailbox, to an actor, in its reply, nested in something."""
    mailbox, way = Mailbox(), Mailbox()
    way.put({"reply to": [mailbox]})
    way.get()["reply to"][0].put(1)
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.tell(Teller(mailbox), 2)
        ask(actor.proxy.echo, mailbox).result(LIMIT).put(3)
    assert [1, 2, 3] == [mailbox.get(timeout=LIMIT) for _ in range(3)]


class Teller:
    """Looks like a proxy to a Recorder."""

    def __init__(self, mailbox):
        self.note = mailbox.put


def test_lives_as_long_as_somebody_has_it():
    first = Mailbox(3)
    second = pickle.loads(pickle.dumps(first))
    assert (first.directory, 3) == (second.directory, second._maxsize)
    first.put(1)
    directory = first.directory
    del first
    assert [1] == drained(second)
    del second
    assert not os.path.exists(directory)


def test_the_last_process_that_has_it_removes_it(start):
    mailbox, way = Mailbox(), Mailbox()
    directory = mailbox.directory
    process = start(keep, mailbox, way)
    way.put("keep on", timeout=LIMIT)
    eventually(way.empty)
    del mailbox
    gc.collect()
    assert os.path.exists(directory)
    way.put("let go")
    assert 0 == exitcode(process)
    assert not os.path.exists(directory)


def test_one_that_is_gone_cannot_be_had_again():
    pickled = pickle.dumps(Mailbox())
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


class Bad:
    """Can't be pickled, or not be unpickled."""

    def __init__(self, here, error):
        self.here, self.error = here, error

    def __reduce__(self):
        if self.here:
            raise_(self.error)
        return raise_, (self.error,)


def raise_(error):
    raise error("mine")


UNPICKLABLE = {
    "lambda": (lambda: 1, Exception),  # which one depends on the Python
    "generator": ((i for i in ()), TypeError),
    "lock": (threading.Lock(), TypeError),
    "lock of multiprocessing": (multiprocessing.Lock(), RuntimeError),
    "an attribute error": (Bad(True, AttributeError), AttributeError),
    "behind something large": ([bytes(10**6), Bad(True, ZeroDivisionError)], ZeroDivisionError),
    "something deep": (functools.reduce(lambda inner, _: [inner], range(100_000), None), RecursionError),
}


@pytest.mark.parametrize(("obj", "error"), UNPICKLABLE.values(), ids=UNPICKLABLE)
@pytest.mark.parametrize("maxsize", [0, 1])
def test_put_raises_what_pickling_raises_and_puts_nothing(obj, error, maxsize):
    mailbox = Mailbox(maxsize)
    for _ in range(3):
        with pytest.raises(error):
            mailbox.put(obj)
    mailbox.put_nowait(True)
    assert 1 == mailbox.qsize()
    assert [True] == drained(mailbox)
    assert mailbox.empty()


@pytest.mark.parametrize("size", [0, 100_000])
@pytest.mark.parametrize("maxsize", [0, 2])
def test_get_raises_what_unpickling_raises_and_goes_on(size, maxsize):
    mailbox = Mailbox(maxsize)
    before = names(mailbox)
    for _ in range(3):
        mailbox.put([bytes(size), Bad(False, ZeroDivisionError)])
        mailbox.put("next")
        with pytest.raises(ZeroDivisionError, match="mine"):
            mailbox.get()
        assert ["next"] == drained(mailbox)
    assert before == names(mailbox)


def test_an_object_of_any_size_comes_through_and_leaves_nothing():
    """The sizes around which something changes: a frame's, a FIFO's, a buffer's that is worth a mapping."""
    mailbox = Mailbox()
    before = names(mailbox)
    sizes = [0, 1, *range(4000, 4200), 65_535, 65_536, 65_537, 1_000_000, 64_000_000]
    for size in sizes:
        for make in (bytes, bytearray):
            sent = make(b"\xa5") * size
            mailbox.put(sent)
            assert sent == mailbox.get()
    assert before == names(mailbox)
    for size in sizes[:-1]:
        mailbox.put(b"\xa5" * size)
    assert [b"\xa5" * size for size in sizes[:-1]] == drained(mailbox)
    assert before == names(mailbox)


def test_a_large_array_is_mapped_and_not_copied(start):
    numpy = pytest.importorskip("numpy")
    mailbox, results = Mailbox(), Mailbox()
    process = start(get_into, mailbox, results, 1)
    sent = numpy.arange(1_000_000).reshape(1000, 1000)
    mailbox.put({"array": sent})
    found = results.get(timeout=LIMIT)["array"]
    assert (sent == found).all()
    with open("/proc/self/maps") as maps:
        lines = [line for line in maps if results.directory in line and "inbox" not in line]
    places = [[int(number, 16) for number in line.split()[0].split("-")] for line in lines]
    assert any(start_ <= found.ctypes.data < end for start_, end in places)
    found += 1  # it is the receiver's own
    assert 0 == exitcode(process)
    assert ["fifo", "inbox"] == names(mailbox) == names(results)


def test_takes_200000_items_without_a_reader_and_gives_them_back_in_order():
    mailbox = Mailbox()
    put_all(mailbox, range(200_000))
    assert 200_000 == mailbox.qsize()
    assert all(number == mailbox.get_nowait() for number in range(200_000))
    assert mailbox.empty()


def test_a_process_exits_with_a_megabyte_unread(start):
    mailbox = Mailbox()
    items = [bytes([number]) * 4000 for number in range(250)]
    assert 0 == exitcode(start(put_all, mailbox, [*items, b"x" * 1_000_000]))
    assert [*items, b"x" * 1_000_000] == drained(mailbox)


def test_put_nowait_finds_room_however_busy_the_readers_are(start):
    """One that reads just then is no reason to call a mailbox without a bound full."""
    mailbox, results = Mailbox(), Mailbox()
    processes = [start(get_into, mailbox, results, 1500) for _ in range(2)]
    for number in range(3000):
        mailbox.put_nowait((number, bytes(3000)))
    assert [*range(3000)] == sorted(results.get(timeout=LIMIT)[0] for _ in range(3000))
    assert [0, 0] == [*map(exitcode, processes)]


@pytest.mark.parametrize(("context", "maxsize"), BOTH, indirect=["context"])
def test_many_put_and_get_at_once_each_item_once_and_in_order(start, tmp_path, maxsize):
    mailbox = Mailbox(maxsize)
    before = names(mailbox)
    consumers = [start(consume, mailbox, tmp_path / f"{number}") for number in range(3)]
    producers = [start(produce, mailbox, f"sender{number}", 200) for number in range(2)]
    produce(mailbox, "main", 200)
    assert [0, 0] == [*map(exitcode, producers)]
    put_all(mailbox, [None] * 3)
    assert [0, 0, 0] == [*map(exitcode, consumers)]
    found = [[(sender, int(number)) for sender, number in recorded(tmp_path / name)] for name in "012"]
    senders = ("main", "sender0", "sender1")
    assert [*itertools.product(senders, range(200))] == sorted(itertools.chain(*found))
    for each in found:
        for sender in senders:
            numbers = [number for who, number in each if who == sender]
            assert sorted(numbers) == numbers
    assert mailbox.empty()
    assert before == names(mailbox)


def test_many_threads_put_and_get_at_once():
    mailbox, found = Mailbox(50), []
    threads = [threading.Thread(target=produce, args=(mailbox, name, 300)) for name in "abc"]
    threads += [threading.Thread(target=lambda: found.extend(iter(mailbox.get, None))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads[:3]:
        thread.join(LIMIT)
    put_all(mailbox, [None] * 3)
    for thread in threads[3:]:
        thread.join(LIMIT)
    assert [item(name, number) for name in "abc" for number in range(300)] == sorted(found)


def test_an_actor_that_waits_to_get_goes_on_receiving(context, start):
    """Also while another process is the one that reads: who sends to the actor may be the one to put the item."""
    mailbox, results = Mailbox(), Mailbox()
    other = start(get_into, mailbox, results, 1)
    eventually(lambda: is_being_read(mailbox))
    with Actor(Getter(mailbox), context=context) as actor, contextlib.ExitStack() as stack:
        stack.callback(actor.kill)  # which could not be closed, if this were wrong
        future = ask(actor.proxy.get)
        for _ in range(1000):
            actor.proxy.note(bytes(1000))
        put_all(mailbox, [1, 2])
        assert [1, 2] == sorted([results.get(timeout=LIMIT), future.result(LIMIT)])
    assert 0 == exitcode(other)


class Getter(Recorder):
    def __init__(self, mailbox):
        self.mailbox = mailbox

    def get(self):
        return self.mailbox.get()

    def note(self, *items):
        pass
