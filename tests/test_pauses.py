"""A pause between two lines, at the worst moment, as only a starved machine makes it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import math
import multiprocessing
import os
import select
import signal
import threading
import weakref

import pytest
from async_actors import OnSignals
from support import LIMIT, Recorder, eventually, reached

from pactor import (
    Actor,
    ActorClosed,
    ActorDied,
    Restart,
    _askers,
    _awaiting,
    _channel,
    _ending,
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
def full(monkeypatch, tmp_path):
    """Makes an actor that is busy, and its mailbox full; returns it, and what has it go on."""
    monkeypatch.setattr(_waiting.Patience, "BLIND", -math.inf)  # it sleeps at once where there is nothing to do

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
        has_ended = actor.join(LIMIT)
        actor.kill()
    assert has_ended


def test_a_close_that_finds_no_room_is_seen_by_the_next_process(monkeypatch, full, tmp_path):
    pause = tmp_path / "pause"
    read_then(monkeypatch, pause, lambda read: read() and os.kill(os.getpid(), signal.SIGKILL))
    actor, go_on = full(Recorder, on_failure=Restart(backoff=0))
    with actor:
        pause.touch()
        actor.close()
        go_on()
        has_ended = actor.join(LIMIT)
        actor.kill()
    assert has_ended


def test_a_late_event_of_an_asker_that_is_gone_does_not_end_the_next_one():
    """Which has got its descriptor."""
    replies = _replies.Replies(_runtime.home().new_mailbox())
    askers = _askers.Askers(select.poll())
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


def test_a_thread_that_waits_is_woken_where_an_event_loop_can_not_send(gate, tmp_path):
    other = tmp_path / "other"

    async def main():
        await tell(actor.proxy.wait_for, other)
        future = ask(actor.proxy.echo)
        waiting = asyncio.ensure_future(asyncio.to_thread(future.result))
        while not future._replies._leader:
            await asyncio.sleep(0.001)
        actor.close()
        gate.touch()
        await asyncio.wait([waiting], timeout=LIMIT / 2)
        assert waiting.done()
        other.touch()
        with pytest.raises(ActorClosed):
            await waiting

    with Actor(Recorder(), context=FORK, maxsize=1) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        try:
            asyncio.run(main())
        finally:
            other.touch()


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
        while not seen.is_set():
            await asyncio.sleep(0.001)
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
