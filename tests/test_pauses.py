"""What comes between two lines at the worst moment: a pause, as on a starved machine, a kill, a signal handler."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import fcntl
import math
import multiprocessing
import os
import pathlib
import select
import signal
import threading
import time
import weakref
from multiprocessing import popen_fork

import pytest
from async_actors import OnSignals
from later_actors import OwnsForwarder
from mailbox_workers import die
from support import LIMIT, Recorder, ends, eventually, reached, runs, sleeps, unread
from test_asyncio import until

from pactor import (
    Actor,
    ActorClosed,
    ActorDied,
    Mailbox,
    Restart,
    _askers,
    _awaiting,
    _channel,
    _ending,
    _loop,
    _mailbox,
    _replies,
    _runtime,
    _waiting,
    _wire,
    ask,
    tell,
)

FORK = multiprocessing.get_context("fork")  # which inherits what a test has patched
PID = os.getpid()


@pytest.fixture
def full(tmp_path):
    """Makes an actor that is busy, and its mailbox full; returns it, and what has it go on."""

    def full(cls, **options):
        gate = tmp_path / "busy"
        actor = Actor(cls(), context=FORK, **options)
        actor.proxy.wait_for(gate)
        reached(gate)
        while actor._way.try_send(_wire.NUDGE_FRAME):
            pass
        return actor, gate.touch

    return full


def read_then(monkeypatch, pause, do):
    """Has an actor do something at its first read once ``pause`` is there."""
    readv = os.readv

    def read(fd, buffers):
        if os.getpid() == PID or not pause.exists():
            return readv(fd, buffers)
        pause.unlink()
        return do(lambda: readv(fd, buffers))

    monkeypatch.setattr(os, "readv", read)


@pytest.mark.parametrize("cls", [Recorder, OnSignals])
def test_a_close_that_finds_no_room_comes_when_a_read_has_begun(monkeypatch, full, tmp_path, gate, cls):
    pause = tmp_path / "pause"
    read_then(monkeypatch, pause, lambda read: Recorder().wait_for(gate) or read())
    actor, go_on = full(cls)
    with actor:
        pause.touch()
        go_on()
        reached(gate)
        actor.close()
        gate.touch()
        assert ends(actor)


def test_a_close_that_finds_no_room_is_seen_by_the_next_process(monkeypatch, full, tmp_path):
    pause = tmp_path / "pause"
    read_then(monkeypatch, pause, lambda read: read() and os.kill(os.getpid(), signal.SIGKILL))
    actor, go_on = full(Recorder, on_failure=Restart(backoff=0))
    with actor:
        pause.touch()
        actor.close()
        go_on()
        assert ends(actor)


def test_a_late_event_of_an_asker_that_is_gone_does_not_end_the_next_one(tmp_path):
    """Which has got its descriptor."""
    replies = _replies.Replies(_runtime.home().new_mailbox())
    askers = _askers.Askers(select.poll(), str(tmp_path), keeps_journal=False)
    try:
        address = replies.mailbox.encode()
        askers.reply(address, 1, _wire.VALUE, "spam")
        fd = askers._ways[address].file
        askers.attend(fd)
        assert address in askers._ways
        assert os.path.isdir(replies.mailbox)
    finally:
        replies.close()
    askers.attend(fd)
    assert not os.path.exists(replies.mailbox)


def test_a_late_event_of_an_actor_that_is_gone_does_not_end_the_next_one(gate):
    with Actor(Recorder(), context=FORK) as actor:
        future = ask(actor.proxy.wait_for, gate)
        future._replies._bury(future._way.file)
        gate.touch()
        assert future.result(LIMIT) is None


def test_an_actor_that_gets_the_descriptor_of_one_that_is_gone_is_watched(monkeypatch, gate):
    class Watched(dict):
        def pop(self, fd, *default):
            self[fd] = weakref.ref(way)  # another thread asks right before
            return super().pop(fd, *default)

    with Actor(Recorder(), context=FORK) as actor:
        future = ask(actor.proxy.wait_for, gate)
        replies, way = future._replies, future._way
        gone = weakref.ref(_channel.Channel("gone", "gone"))
        monkeypatch.setattr(replies, "_watched", Watched({way.file: gone}))
        replies._bury(way.file)
        assert replies._watched[way.file]() is way
        actor.kill()
        with pytest.raises(ActorDied, match="SIGKILL"):
            future.result(LIMIT)


@pytest.mark.parametrize("removed", [False, True])
def test_a_directory_that_was_not_empty_for_a_moment_is_removed(monkeypatch, tmp_path, removed):
    rmdir, errors = os.rmdir, [OSError(errno.ENOTEMPTY, "not empty")]

    def refuse_once(path):
        if errors:
            if removed:  # by somebody else
                rmdir(path)
            raise errors.pop()
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", refuse_once)
    (tmp_path / "mailbox").mkdir()
    _runtime.remove(str(tmp_path / "mailbox"))
    assert not (tmp_path / "mailbox").exists()


class Parent:
    def fork(self):
        pid = os.fork()
        if not pid:
            signal.pause()
        return pid


def test_an_actor_that_another_thread_reaps_has_ended(monkeypatch):
    """Also where a child of its own holds what multiprocessing would wait for."""
    open_process = _waiting.open_process

    def open_late(pid):
        actor.close()
        eventually(lambda: actor.exitcode is not None)
        return open_process(pid)

    with Actor(Parent(), context=FORK) as actor:
        child = ask(actor.proxy.fork).result(LIMIT)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(_waiting, "open_process", open_late)
                assert actor.join(5)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("replies", [0, 500])
def test_an_actor_ends_with_its_owner_where_no_descriptor_tells_of_it(monkeypatch, replies):
    """Also while the replies of others keep it from sleeping."""
    monkeypatch.setattr(_waiting, "open_process", lambda pid: None)
    with Actor(Recorder(), context=FORK) as worker, Actor(OwnsForwarder(), context=FORK) as owner:
        pid = ask(owner.proxy.own, worker.proxy, replies).result(LIMIT)
        owner.kill()
        assert owner.join(LIMIT)  # and is reaped
        eventually(lambda: not runs(pid))
        if replies:
            with pytest.raises(concurrent.futures.TimeoutError):
                ask(worker.proxy.echo).result(0.05)
        worker.kill()


def test_a_thread_that_waits_is_woken_where_an_event_loop_can_not_send(gate, tmp_path):
    other = tmp_path / "other"

    async def main():
        await tell(actor.proxy.wait_for, other)
        future = ask(actor.proxy.echo)
        waiting = asyncio.ensure_future(asyncio.to_thread(future.result))
        try:
            await until(lambda: future._replies._leader)
            actor.close()
            gate.touch()
            await asyncio.wait([waiting], timeout=LIMIT / 2)
            assert waiting.done()
        finally:
            other.touch()
        with pytest.raises(ActorClosed):
            await waiting

    with Actor(Recorder(), context=FORK, maxsize=1) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        asyncio.run(main())


def test_what_a_thread_gives_back_to_an_event_loop_is_sent_by_it(monkeypatch, gate):
    deliver, go_on = _awaiting.Outbox._deliver, _awaiting.Outbox._go_on
    taken, seen, given_up = threading.Event(), threading.Event(), threading.Event()

    def deliver_or_give_up(self, frame, deadline):
        if self.thread == threading.get_ident():
            return deliver(self, frame, deadline)
        taken.set()
        given_up.wait(LIMIT)
        return False

    def go_on_and_say(self):
        go_on(self)
        seen.set()

    monkeypatch.setattr(_awaiting.Outbox, "_deliver", deliver_or_give_up)
    monkeypatch.setattr(_awaiting.Outbox, "_go_on", go_on_and_say)

    async def leave():
        await tell(actor.proxy.note, 0)
        return ask(actor.proxy.echo, "spam")

    def wait():
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.01)

    async def main():
        gate.touch()
        await until(seen.is_set)
        given_up.set()
        thread.join()
        assert "spam" == await asyncio.wait_for(future, LIMIT)

    loop = asyncio.new_event_loop()
    with Actor(Recorder(), context=FORK, maxsize=1) as actor, contextlib.closing(loop):
        actor.proxy.wait_for(gate)
        reached(gate)
        future = loop.run_until_complete(leave())
        thread = threading.Thread(target=wait)
        thread.start()
        try:
            assert taken.wait(LIMIT)
            loop.run_until_complete(main())
        finally:
            given_up.set()
            gate.touch()
            thread.join()


def test_a_way_that_another_thread_ends_is_not_opened_again():
    class Ended(_channel.Channel):
        """Ends just when the descriptor is looked at."""

        file = property(lambda self: self.end(_ending.CLOSED) or -2, lambda self, file: None)

    way = Ended("nowhere", "nobody")
    way.choose_way()
    assert -1 == way.fd


def die_with_a_slot(put, item):
    """In a process that is killed between the slot and the frame."""
    process = FORK.Process(target=die, args=("after pactor._slots:SenderSlots._take", put, item))
    process.start()
    process.join(LIMIT)
    assert -signal.SIGKILL == process.exitcode
    process.close()


def test_the_only_slot_of_an_actor_that_sleeps_is_put_back(monkeypatch):
    monkeypatch.setattr(_loop, "_LOOK_SELDOM", 0.1)
    with Actor(Recorder(), context=FORK, maxsize=1) as actor:
        assert [] == ask(actor.proxy.all).result(LIMIT)
        eventually(lambda: sleeps(actor.pid))
        die_with_a_slot(actor.proxy.note, "lost")
        actor.proxy.note("spam")
        assert ["spam"] == ask(actor.proxy.all).result(LIMIT)


def test_the_only_slot_of_a_mailbox_whose_reader_sleeps_is_put_back(monkeypatch):
    monkeypatch.setattr(_mailbox, "_LOOK_SELDOM", 0.1)
    mailbox, got = Mailbox(1), Mailbox()
    reader = FORK.Process(target=lambda: got.put(mailbox.get()))
    reader.start()
    eventually(lambda: sleeps(reader.pid))
    die_with_a_slot(mailbox.put, "lost")
    mailbox.put("spam", timeout=LIMIT)
    assert "spam" == got.get(timeout=LIMIT)
    reader.join(LIMIT)
    reader.close()


def test_an_actor_that_fails_leaves_the_notes_of_its_owner_alone():
    """Also where it was forked."""
    with Actor(Recorder(), context=FORK) as victim:
        victim.kill()
        victim.join()
        with Actor(Recorder(), context=FORK, on_failure="stop") as failing:
            failing.proxy.fail(ValueError("spam"))
            failing.join()
        assert "SIGKILL" in _ending.find(victim._mailbox.directory).reason


def test_a_close_that_a_signal_handler_interrupts_is_done_by_the_next(monkeypatch):
    def interrupt(*args):
        raise TimeoutError

    with Actor(Recorder(), context=FORK) as actor:
        with monkeypatch.context() as patched:
            patched.setattr(_wire, "frame", interrupt)
            with pytest.raises(TimeoutError):
                actor.close()
        actor.close()
        assert ends(actor)


def test_a_signal_handler_that_interrupts_a_get_leaves_no_lock(monkeypatch):
    flock = fcntl.flock

    def lock_and_interrupt(fd, operation):
        flock(fd, operation)
        monkeypatch.undo()
        raise TimeoutError

    mailbox, got = Mailbox(), Mailbox()
    with pytest.raises(TimeoutError):
        monkeypatch.setattr(fcntl, "flock", lock_and_interrupt)
        mailbox.get()
    mailbox.put("spam")
    reader = FORK.Process(target=lambda: got.put(mailbox.get(timeout=LIMIT)))
    reader.start()
    reader.join(LIMIT)
    reader.close()
    assert "spam" == got.get(timeout=LIMIT)


def test_a_signal_handler_may_fork_while_a_mailbox_is_made(monkeypatch):
    share = _runtime.Lease.share

    def fork_and_share(self):
        monkeypatch.undo()
        pid = os.fork()
        if not pid:
            os._exit(0)
        assert 0 == os.waitpid(pid, 0)[1]
        share(self)

    monkeypatch.setattr(_runtime.Lease, "share", fork_and_share)
    mailbox = Mailbox()
    mailbox.put("spam")
    assert "spam" == mailbox.get(timeout=LIMIT)


class DiesAtStart(Recorder):
    def on_start(self):
        os._exit(1)


class DiesAtStartWithCoroutines(DiesAtStart, OnSignals):
    pass


@pytest.mark.parametrize("cls", [DiesAtStart, DiesAtStartWithCoroutines])
def test_a_closed_actor_whose_process_dies_at_its_start_ends(cls):
    with Actor(cls(), context=FORK, on_failure=Restart(math.inf, backoff=0)) as actor:
        actor.proxy.note("spam")
        actor.close()
        assert ends(actor)


def test_a_supervisor_that_can_not_start_a_process_obeys(monkeypatch):
    launch = popen_fork.Popen._launch

    def refuse(self, process):
        if os.getpid() != PID:
            raise BlockingIOError(errno.EAGAIN, "no process left")
        return launch(self, process)

    monkeypatch.setattr(popen_fork.Popen, "_launch", refuse)
    actor = Actor(Recorder(), context=FORK, on_failure=Restart(math.inf, backoff=0))
    actor.kill()
    has_ended = actor.join(LIMIT)
    actor._process.kill()
    actor.join()
    assert has_ended


class Told:
    """Asks another at its end."""

    def __init__(self, other, gate):
        self.other = other
        self.gate = gate

    def value(self):
        Recorder().wait_for(self.gate)
        os.kill(os.getpid(), signal.SIGTERM)
        return 1

    def on_stop(self):
        try:
            told = ask(self.other.echo, "spam").result(LIMIT)
        except Exception as error:
            told = repr(error)
        pathlib.Path(f"{self.gate}.told").write_text(told)


class Asker(Recorder):
    def ask(self, proxy):
        value = ask(proxy.value).result()
        time.sleep(0.2)
        return value


def test_who_has_answered_is_in_no_circle_any_more(gate):
    """The reply comes to the asker together with an ask and with a probe."""
    with Actor(Asker(), context=FORK) as asker, Actor(Told(asker.proxy, gate), context=FORK) as told:
        value = ask(asker.proxy.ask, told.proxy)
        reached(gate)
        way = asker._way
        eventually(lambda: unread(way.file) == 0)
        os.kill(asker.pid, signal.SIGSTOP)
        try:
            gate.touch()
            eventually(lambda: unread(way.file) > 350)  # an ask, and at least one probe
        finally:
            os.kill(asker.pid, signal.SIGCONT)
        assert 1 == value.result(LIMIT)
        told.join()
    assert "spam" == pathlib.Path(f"{gate}.told").read_text()
