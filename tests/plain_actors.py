"""What the tests of the Actor itself wrap. Without pytest, so that a spawned process starts soon."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import util

from support import LIMIT, Counter, Recorder, reached

from pactor import Actor, ask


class Named(Counter):
    """For the names that its actors are given."""


class Slots:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 0

    def add(self):
        self.value += 1
        if self.value < 3:
            self.enqueue(self.add)

    def total(self):
        return self.value


class SlotsWithEnqueue(Slots):
    __slots__ = ("enqueue", "enqueue_later")


class Registry(type):
    """Its classes have an enqueue, and what is made of them has not."""

    def enqueue(cls):
        raise AssertionError("called for an actor")


class Registered(Slots, metaclass=Registry):
    pass


class Frozen(Slots):
    def __setattr__(self, name, value):
        if name != "value":
            raise AttributeError(f"can't set {name}")
        super().__setattr__(name, value)


class WithPrimitives:
    """Holds what multiprocessing shares with a process only when it starts."""

    def __init__(self, context):
        self.lock, self.queue, self.event = context.Lock(), context.Queue(), context.Event()

    def use(self):
        with self.lock:
            self.queue.put("from the actor")
        self.event.set()


class FailsToStart:
    def __init__(self):
        raise ValueError("no way")

    def note(self, *items):
        pass


class Owner:
    """An actor that makes actors."""

    def __init__(self):
        self.child = None

    def make(self, method):
        self.child = Actor(Counter(), context=multiprocessing.get_context(method))
        return self.child.proxy

    def pids(self):
        return os.getpid(), self.child.pid


def _fork_and_sleep():
    parent, pid = os.getpid(), os.fork()
    if not pid:
        while os.getppid() == parent:  # it ends with its parent at the latest, also where the test fails
            time.sleep(0.1)
        os._exit(0)
    return pid


class Forker:
    def terminate_child(self):
        pid = _fork_and_sleep()
        os.kill(pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def child_asks(self, proxy):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                proxy.add()
                code = ask(proxy.total).result(LIMIT) - 1
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def child_exits(self, how):
        pid = os.fork()
        if not pid:
            sys.exit(how)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def run(self):
        return subprocess.run([sys.executable, "-c", "print('hello')"], capture_output=True, text=True).stdout


class Strays:
    """Forks in a method, and its child goes on as if it were the actor."""

    def __init__(self):
        self.ticks = []

    def tick(self):
        self.ticks.append(os.getpid())

    def all(self):
        return self.ticks

    def stray(self, how):
        if not os.fork():
            if how == "raise":
                raise ValueError
            if how == "exit":
                sys.exit()


class BreaksItsLog(Recorder):
    """Has a log that raises, as one does whose disk is full or whose pipe is broken."""

    def on_start(self):
        logging.getLogger("pactor").addHandler(Raising())


class Raising(logging.Handler):
    def emit(self, record):
        raise OSError("no room for a word")


class EndsSlowly(Recorder):
    """Its process goes on after it has let go of its mailbox."""

    def __init__(self, gate):
        super().__init__()
        util.Finalize(None, reached, (gate,), exitpriority=10)
