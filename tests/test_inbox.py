"""The inbox: what it has received survives its reader, whatever that was doing when it was killed."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import resource
import shutil
import types

import pytest

from pactor import _files, _inbox, _wire
from pactor._inbox import Inbox


@pytest.fixture
def path(tmp_path, fifo):
    _inbox.create(tmp_path / "inbox", fifo)
    return tmp_path / "inbox"


@pytest.fixture
def inbox(path, fifo):
    inbox = Inbox(path, fifo)
    yield inbox
    inbox.close()


def frame(number, size=20):
    return _wire.frame(_wire.ITEM, b"", body(number, size))


def body(number, size=20):
    return b"%d".ljust(size - _wire.HEADER_SIZE) % number


def drained(inbox):
    """The kinds and bodies of all that is still to be handed out, also by the FIFO."""
    found = []
    while (body := inbox.take()) is not None or inbox.pull():
        if body is not None:
            found.append((inbox.kind, body))
    return found


def bodies(inbox):
    return [body for _, body in drained(inbox)]


def test_is_empty_at_first(inbox):
    assert (None, False, None, 0) == (inbox.recover(), inbox.pull(), inbox.take(), len(inbox))


def test_hands_out_frames_in_order_with_their_kinds(inbox, fifo):
    kinds = [_wire.ITEM, _wire.ASK, _wire.ITEM | _wire.STORED, _wire.CLOSE]
    os.write(fifo, b"".join(_wire.frame(kind, b"head", b"body %d" % kind) for kind in kinds))
    assert inbox.pull()
    assert len(kinds) == len(inbox)
    assert [(kind, b"headbody %d" % kind) for kind in kinds] == drained(inbox)
    assert 0 == len(inbox)


def test_grows_while_nothing_is_taken_and_shrinks_when_all_is(inbox, fifo, path):
    least = path.stat().st_size
    for number in range(500):
        os.write(fifo, frame(number, 1000))
        inbox.pull()
    assert 500 == len(inbox)
    assert 500_000 < path.stat().st_size < 2_000_000
    assert [body(number, 1000) for number in range(500)] == bodies(inbox)
    assert least == path.stat().st_size


def test_reuses_its_room_while_some_are_waiting(inbox, fifo, path):
    for number in range(10):
        os.write(fifo, frame(number, 300))
        inbox.pull()
    for number in range(10, 2000):
        os.write(fifo, frame(number, 300))
        inbox.pull()
        assert body(number - 10, 300) == inbox.take()
    assert path.stat().st_size < 50_000
    assert [body(number, 300) for number in range(1990, 2000)] == bodies(inbox)


def test_stays_in_front_where_each_is_taken_when_it_comes(inbox, fifo):
    ends = []
    for number in range(1000):
        os.write(fifo, frame(number, 60))
        assert inbox.pull()
        assert [body(number, 60)] == bodies(inbox)
        ends.append(inbox._end)
    assert max(ends) < _inbox._FRONT
    assert 0 < ends.count(0) < 100  # it was cleared, and not each time


def test_what_was_taken_is_done_with_where_the_next_is_asked_for(inbox, fifo, path):
    os.write(fifo, frame(0))
    inbox.pull()
    assert [body(0)] == bodies(inbox)
    other = Inbox(path, fifo)
    assert other.recover() is None
    os.write(fifo, frame(1))
    assert [body(1)] == bodies(other)
    other.close()


@pytest.mark.parametrize("reader", ["the same", "another"])
def test_follows_what_another_reader_did(inbox, fifo, path, reader):
    """Two processes take turns, each with a mapping of its own, which the other's growth leaves behind."""
    other = Inbox(path, fifo)
    for turn in range(60):
        for number in range(30):
            os.write(fifo, frame(30 * turn + number, 1000))
            other.recover()
            other.pull()
        left = 3 if turn % 3 else 0
        inbox.recover()
        while len(inbox) > left:
            assert inbox.take()
            inbox.finish()
        inbox, other = (other, inbox) if reader == "another" else (inbox, other)
    inbox.close()
    other.close()


def test_the_frame_that_was_handed_out_is_told_once(inbox, fifo, path):
    os.write(fifo, b"".join(map(frame, range(3))))
    inbox.pull()
    inbox.take()
    second = Inbox(path, fifo)
    assert body(0) == second.recover()
    second.finish()
    third = Inbox(path, fifo)
    assert None is third.recover()
    assert [body(1), body(2)] == bodies(third)
    second.close()
    third.close()


def test_close_comes_behind_what_the_fifo_held(inbox, fifo, path):
    os.write(fifo, frame(0))
    _inbox.close_when_read(path)
    inbox.pull()
    os.write(fifo, frame(1))
    assert [(_wire.ITEM, body(0)), (_wire.CLOSE, b""), (_wire.ITEM, body(1))] == drained(inbox)


def test_knows_its_reader(path):
    assert 0 == _inbox.reader(path)
    _inbox.set_reader(path, 4321)
    assert 4321 == _inbox.reader(path)
    assert 0 == _inbox.reader(path.with_name("none"))


RUBBISH = {
    "one byte": b"\5",
    "zeros": bytes(200),
    "zeros and more": bytes(20) + frame(99) * 30,
    "a size of 1": b"\1\0\0",
    "a size of 2": b"\2\0\1abc",
    "a huge size": b"\xff\xff\1" + bytes(100),
    "half a frame": frame(99, 500)[:300],
    "a frame, then rubbish": frame(99) + b"\xff" * 50,
    "anything": None,
}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
@pytest.mark.parametrize("reader", ["the same", "another"])
def test_rubbish_is_discarded_and_what_comes_later_is_not(inbox, fifo, path, rubbish, reader):
    for bytes_ in [rubbish] if rubbish else [random.Random(seed).randbytes(1 + 37 * seed) for seed in range(100)]:
        os.write(fifo, bytes_)
        inbox.pull()
        other = Inbox(path, fifo) if reader == "another" else inbox
        other.recover()
        assert len(other) <= len(bytes_)
        bodies(other)
        os.write(fifo, b"".join(map(frame, range(5))))
        other.pull()
        other.recover()
        assert [body(number) for number in range(5)] == bodies(other)
        inbox.recover()
    other.close()


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_does_no_harm_either_where_its_reader_was_killed_before_it_knew_its_end(inbox, fifo, path, rubbish):
    for bytes_ in [rubbish] if rubbish else [random.Random(seed).randbytes(1 + 37 * seed) for seed in range(100)]:
        os.write(fifo, bytes_)
        inbox.pull()
        inbox._words[_inbox._END] = 0
        inbox.recover()
        bodies(inbox)


def test_rubbish_that_was_left_out_is_no_frame_to_later_readers_either(inbox, fifo):
    """Readers that are killed before they know the end find it by the 0 behind the last frame."""
    os.write(fifo, frame(0) + b"\xff\xff" + b"\4\0\1\0" * 10)
    for number, size in [(0, 20), (1, 22)]:
        inbox.pull()
        inbox._words[_inbox._END] = 0
        inbox.recover()
        assert [body(number, size)] == bodies(inbox)
        os.write(fifo, frame(number + 1, size + 2))


@pytest.mark.parametrize("another", [False, True])
def test_a_system_without_room_is_told_as_oserror_and_costs_nothing(inbox, fifo, path, another):
    """With the size of files limited, as there is no disk that one may fill everywhere."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    sent = 0
    try:
        with pytest.raises(OSError) as failure:
            while True:
                os.write(fifo, frame(sent, 1000))
                sent += 1
                inbox.pull()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if another:
        other = Inbox(path, fifo)
        other.recover()
        other.pull()
        assert other._capacity > inbox._capacity
        inbox.recover()
        assert failure.tb  # still has what the failed read was to fill
        other.close()
    assert [body(number, 1000) for number in range(sent)] == bodies(inbox)


def test_all_that_it_grows_by_is_there(inbox, fifo, path):
    """A hole in the file would kill its reader with SIGBUS, once the disk is full."""
    for number in range(100):
        os.write(fifo, frame(number, 1000))
        inbox.pull()
        assert path.stat().st_size <= 512 * path.stat().st_blocks
    bodies(inbox)
    assert path.stat().st_size <= 512 * path.stat().st_blocks


def hit_by(handler, function, when):
    """The function, with a signal handler that comes right before it or after it."""

    def hit(*args, **kwargs):
        if when == "before":
            handler()
        try:
            return function(*args, **kwargs)
        finally:
            if when == "after":
                handler()

    return hit


# What a reader does, and a signal handler of its that waits, where such a one may come: behind calls, and at the
# beginning of functions. There it reads on, or takes all that there is, or both.

CALLS = [
    *((os, name, "after") for name in ("readv", "truncate")),
    *((owner, name, when) for owner, name in ((_files, "mapped"), (_inbox, "_views")) for when in ("before", "after")),
    *((Inbox, name, when) for name in ("_clear", "_make_room", "_grow") for when in ("before", "after")),
]


@pytest.mark.parametrize(("owner", "name", "when"), CALLS, ids=[f"{when} {name}" for _, name, when in CALLS])
def test_a_signal_handler_may_read_anywhere(tmp_path, fifo, owner, name, when, monkeypatch, caplog):
    comes = 0

    def handler():
        nonlocal comes
        monkeypatch.undo()
        comes += 1
        if name == "readv" and choice.randrange(3) == 0:
            do("take all")
            assert sent == found  # which came at once
        for _ in range(choice.choice([1, 4, 50])):
            do_something()
        if choice.randrange(2):
            check_successor()

    def check_successor():
        """Who takes up the inbox now finds in it what was not handed out."""
        inbox.pull()
        shutil.copy(path, copy)
        other = Inbox(copy, fifo)
        other.recover()
        assert [*inbox._frames(inbox._position)] == [*other._frames(other._position)]
        other.close()

    def do_something():
        do(choice.choice(["send"] * 4 + ["pull"] * 3 + ["take"] * 2 + ["take all"] * (seed % 2)))

    def do(what):
        if what == "send":
            with contextlib.suppress(BlockingIOError):
                os.write(fifo, frame(len(sent), choice.choice([10, 60, 900, 4000])))
                sent.append(len(sent))
        elif what == "pull":
            inbox.pull()
        else:
            while (data := inbox.take()) is not None:
                found.append(int(data))
                if what == "take":
                    return

    hit = hit_by(handler, getattr(owner, name), when)
    for seed in range(20):
        choice = random.Random(seed)
        sent, found = [], []
        path, copy = tmp_path / f"{seed}", tmp_path / "copy"
        _inbox.create(path, fifo)
        inbox = Inbox(path, fifo)
        for _ in range(60):
            earlier = comes
            monkeypatch.setattr(owner, name, hit)
            do_something()
            monkeypatch.undo()
            if comes > earlier:
                check_successor()
        do("take all")
        while inbox.pull():
            do("take all")
        assert sent == found, seed
        assert path.stat().st_size >= _inbox._FRAMES + inbox._capacity
        inbox.close()
        assert not path.read_bytes()[_inbox._FRAMES + inbox._end :].strip(b"\0")
    assert comes
    assert not caplog.records


@pytest.mark.parametrize("does", ["pull", "pull, take", "pull, take, take, pull"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["_rescue", "_size_at"])
def test_a_signal_handler_may_read_while_is_taken_up_what_another_interrupted(
    tmp_path, fifo, name, when, does, monkeypatch
):
    def read_and_raise(*args):
        readv(*args)
        raise KeyboardInterrupt

    def handler():
        monkeypatch.undo()
        for what in does.split(", "):
            inbox.pull() if what == "pull" else take()

    def take():
        if (body := inbox.take()) is not None:
            found.append(int(body))

    readv, found = os.readv, []
    _inbox.create(tmp_path / "inbox", fifo)
    inbox = Inbox(tmp_path / "inbox", fifo)
    os.write(fifo, b"".join(map(frame, range(3))))
    inbox.pull()
    take()
    os.write(fifo, b"".join(map(frame, range(3, 6))))
    monkeypatch.setattr(os, "readv", read_and_raise)
    with pytest.raises(KeyboardInterrupt):
        inbox.pull()
    monkeypatch.undo()
    os.write(fifo, b"".join(map(frame, range(6, 9))))
    monkeypatch.setattr(Inbox, name, hit_by(handler, getattr(Inbox, name), when))
    if (body := inbox.recover()) is not None:
        found.append(int(body))
    monkeypatch.undo()
    inbox.pull()
    for _ in range(10):
        take()
    assert list(dict.fromkeys(found)) == [*range(9)]  # what was handed out last may be handed out again
    inbox.close()


# What a reader does, until it is killed.


class Killed(Exception):
    pass


class Stores:
    """Counts the stores to an inbox; at the last one that it lets happen it is as if the reader were killed.

    An odd number lets half of that last one happen, as a kill may in the middle of a copy.
    """

    def __init__(self, halves):
        self.halves = halves

    def __call__(self, whole, half):
        if self.halves < 2:
            if self.halves:
                half()
            raise Killed
        self.halves -= 2
        whole()


class View:
    """A memoryview that counts what is stored to it."""

    def __init__(self, view, stores):
        self.view, self.stores, self.release = view, stores, view.release

    def __getitem__(self, key):
        return self.view[key]

    def __setitem__(self, key, value):
        _store(self.view.__setitem__, key, value, self.stores)


def _store(set_item, key, value, stores):
    def half():
        if isinstance(key, slice):
            middle = (key.start + key.stop) // 2
            set_item(slice(key.start, middle), value[: middle - key.start])

    stores(lambda: set_item(key, value), half)


@contextlib.contextmanager
def watched(path, fifo, stores):
    """A reader whose stores, and truncations of the file, are counted."""

    class Mapping(mmap.mmap):
        def __setitem__(self, key, value):
            _store(super().__setitem__, key, value, stores)

    def truncate(path, size):
        stores(lambda: os.truncate(path, size), lambda: None)

    views = _inbox._views
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_inbox, "_views", lambda mapping: [View(view, stores) for view in views(mapping)])
        patch.setattr(_inbox, "mmap", types.SimpleNamespace(mmap=Mapping))
        patch.setattr(_inbox, "os", types.SimpleNamespace(**{**vars(os), "truncate": truncate}))
        yield Inbox(path, fifo)


class Run:
    """A reader that follows a script; what it sent and was handed, as kinds and bodies."""

    def __init__(self, script, path, fifo):
        self.script, self.path, self.fifo = script, path, fifo
        self.sent, self.handed = [], []
        self.closes = 0

    def send(self, size):
        with contextlib.suppress(BlockingIOError):
            os.write(self.fifo, frame(len(self.sent), size))
            self.sent.append((_wire.ITEM, body(len(self.sent), size)))

    def go(self, inbox):
        inbox.recover()
        for step, size in self.script:
            if step == "send":
                self.send(size)
            elif step == "close":
                _inbox.close_when_read(self.path)
                self.closes += 1
            elif step == "take":
                if (data := inbox.take()) is not None:
                    self.handed.append((inbox.kind, data))
            else:
                getattr(inbox, step)()


def scripts():
    fill = [("send", 900), ("pull", 0)]
    yield "handing out", [*fill * 3, *[("take", 0), ("finish", 0)] * 3, ("take", 0), *fill, ("take", 0)]
    yield "growing", [*fill * 18, *[("take", 0)] * 19, *fill * 3]
    # With most of it taken, what is left is moved to the front.
    yield "moving", [*fill * 4, *[("send", 900)] * 4, ("pull", 0), *[("take", 0)] * 6, *[*fill * 2, ("take", 0)] * 4]
    yield "closing", [("close", 0), *fill * 2, ("send", 900), ("close", 0), ("pull", 0), *fill, *[("take", 0)] * 7]
    # Random ones that, between them, do everything in every order.
    for seed in range(1, 4):
        choice = random.Random(seed)
        steps = ["send"] * 3 + ["pull"] * 2 + ["take"] * 2 + ["finish"]
        yield f"random {seed}", [(choice.choice(steps), choice.choice([10, 60, 900, 4000])) for _ in range(60)]


@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in scripts()])
def test_killed_at_any_store_it_loses_nothing_and_repeats_nothing(tmp_path, fifo, script):
    """Nor if the next reader is killed at any store of its recovery, and of the first that it receives."""
    finished = False
    for halves in itertools.count():
        for again in itertools.count():
            path = tmp_path / f"{halves}-{again}"
            _inbox.create(path, fifo)
            run = Run(script, path, fifo)
            with contextlib.suppress(Killed), watched(path, fifo, Stores(halves)) as first:
                run.go(first)
                finished = True
            run.send(900)
            recovered = False
            with contextlib.suppress(Killed), watched(path, fifo, Stores(again)) as second:
                second.recover()
                second.pull()
                recovered = True
            inbox = Inbox(path, fifo)
            in_hand = inbox.recover()
            if in_hand is not None and (inbox.kind, in_hand) not in run.handed:
                run.handed.append((inbox.kind, in_hand))
            inbox.pull()
            found = run.handed + drained(inbox)
            inbox.close()
            path.unlink()
            assert run.sent == [(kind, data) for kind, data in found if kind == _wire.ITEM], (halves, again)
            more = found.count((_wire.CLOSE, b"")) - run.closes
            assert 0 <= more <= (not finished) + (not recovered), (halves, again)
            if recovered:
                break
        if finished:
            return
