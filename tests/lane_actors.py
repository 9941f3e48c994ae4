"""What the tests of lanes wrap, and run in processes. Without pytest, so that a spawned one starts soon."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import time

from mailbox_workers import die, record
from support import LIMIT, Counter, Recorder, touch

from pactor import ActorError, _askers, _lane, _loop, _waiting, ask


def look_long(set_attribute=setattr):
    """Has this process look as long as it takes: on a busy machine no wait is short."""
    set_attribute(_waiting.Patience, "SHORT", LIMIT)
    set_attribute(_waiting.Patience, "SHORT_FOR_LARGE", LIMIT)
    set_attribute(_waiting, "SLICE", LIMIT)
    set_attribute(_waiting, "busy_until", 0.0)


def is_used(lane):
    """Whether the other end has taken something from it."""
    return lane.words[lane._other + _lane._TAKEN] != _lane._NOTHING


def with_lane(proxy):
    """Asks an actor until it has taken an ask from a lane; returns the lane."""
    deadline = time.monotonic() + LIMIT
    while True:
        for _ in range(200):
            ask(proxy.echo).result(LIMIT)
        lane = proxy.__channel__.lane
        if lane is not None and is_used(lane):
            return lane
        assert time.monotonic() < deadline, f"no lane was used: {lane}"


class Patient(Recorder):
    """Looks as long as it takes; counts what came the other way and had been taken from the lane."""

    def __init__(self, path=None):
        super().__init__()
        self.path = path
        self.late = 0
        self.noted_before = None

    def on_start(self):
        look_long()
        has_taken = _askers.Askers.has_taken

        def counted(askers, asker, number):
            self.late += (late := has_taken(askers, asker, number))
            return late

        _askers.Askers.has_taken = counted

    def count_late(self):
        return self.late

    def record(self, item):
        record(self.path, item)
        return item

    def die_at(self, where):
        die(where, lambda: None)

    def tell_and_return(self, other, item):
        other.note(item)
        return item

    def ask_in_turn(self, other, count):
        """Asks again and again; returns the answers, and whether it was by a lane."""
        self.other = other  # it keeps the lane
        answers = [ask(other.echo, i).result(LIMIT) for i in range(count)]
        return answers, is_used(with_lane(other))

    def ask_back(self, other, me):
        """Has the other ask this one, which waits for it."""
        with_lane(other)
        return ask(other.ask_for_echo, me).result(LIMIT)

    def answer_at(self, gate):
        """Answers when the gate is there, and executes other messages meanwhile."""
        return concurrent.futures.ThreadPoolExecutor(1).submit(lambda: self.wait_for(gate) or "answer")

    def receive_behind_the_look(self):
        """Has what a signal handler would that waits when the loop has seen something in its lane."""
        take_from = _loop.Loop._take_from

        def receive_and_take(loop, lane):
            _loop.Loop._take_from = take_from
            self.noted_before = len(self.seen)
            loop.current.enqueue(self.note, "received")
            loop.read(loop._fifo)
            take_from(loop, lane)

        _loop.Loop._take_from = receive_and_take

    def received_behind(self):
        """How many it had noted before."""
        return self.noted_before

    def ask_until_refused(self, other):
        """Returns how many were answered, and the error."""
        for count in itertools.count():
            try:
                ask(other.echo).result(LIMIT)
            except ActorError as error:
                return count, type(error)

    def ask_for_echo(self, other):
        return ask(other.echo, "spam").result(LIMIT)


class PatientCounter(Counter):
    def on_start(self):
        look_long()

    async def wait(self):
        return self.value

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def echo(self, value=None):
        return value


def ask_until_killed(proxy, path):
    look_long()
    with_lane(proxy)
    touch(path)
    while True:
        ask(proxy.echo).result(LIMIT)
