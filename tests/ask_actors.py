"""What the tests of ask wrap, send, and run in processes. Without pytest, so that a spawned one starts soon."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable

from support import LIMIT, Recorder, eventually, hit_before, unread

from pactor import _blocks, _current, _inbox, _replies, ask


class TwoArguments(Exception):
    """Pickles, and does not load: its __init__ wants two arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Falsy(Exception):
    def __len__(self):
        return 0


def refuse():
    raise ValueError("refused to load")


class Unloadable:
    def __reduce__(self):
        return refuse, ()


#: What is called where an `Interrupting` is loaded.
interrupt: list[Callable[[], None]] = []


def interrupting():
    for function in interrupt:
        function()
    return "loaded"


class Interrupting:
    def __reduce__(self):
        return interrupting, ()


class Hit(BaseException):
    """What a signal handler raises."""


def hit_where_it_loads(proxy, open_gate):
    """Waits for a reply, and is hit where it is loaded; another is there too, which comes when the gate is open."""
    future = ask(proxy.interrupt)
    fd = _replies._replies.fd
    eventually(lambda: unread(fd))
    before = unread(fd)
    open_gate()
    eventually(lambda: unread(fd) > before)

    def hit():
        interrupt.clear()
        raise Hit

    interrupt.append(hit)
    try:
        future.result(LIMIT)
    except Hit:
        return "hit"


class Fails:
    def fail(self, name):
        if name == "two":
            raise TwoArguments(1, 2)
        if name == "unpicklable":
            raise Unpicklable()
        try:
            return {}["missing"]
        except KeyError as error:
            raise {"value": ValueError, "stop": StopIteration, "base": BaseException}[name]("told") from error

    def make(self):
        return threading.Lock()

    def interrupt(self):
        return Interrupting()

    def make_large(self, kind, size):
        """Its payload lives on in shared memory if it is a buffer."""
        payload = bytes([0 if kind == "zeros" else 7]) * size
        return pickle.PickleBuffer(payload) if kind == "buffer" else payload

    def blocks(self):
        """How many of them were needed so far."""
        return len(_blocks._own)

    def lose(self):
        return Unloadable()

    def alive(self):
        return True


class Asker:
    def __init__(self, proxy):
        self.proxy = proxy

    def ask_and_sleep(self, count):
        futures = [ask(self.proxy.note, i) for i in range(count)]
        time.sleep(0.2)
        return sum(future.result(LIMIT) is None for future in futures)

    def ask_many(self, count):
        return [ask(self.proxy.echo, i).result(LIMIT) for i in range(count)]


def hammer(proxy):
    while True:
        ask(proxy.note, os.getpid())
        ask(proxy.echo, bytes(100_000)).result()


class Flooder:
    """Sends to its peer as fast as it can, which does the same."""

    def __init__(self):
        self.count = 0

    def flood(self, peer, n):
        for _ in range(n):
            peer.receive()

    def receive(self):
        self.count += 1

    def received(self):
        return self.count


class AsksOnSignals(Recorder):
    def __init__(self, other):
        super().__init__()
        self.other = other

    def on_start(self):
        signal.signal(signal.SIGUSR1, self.answer)

    def answer(self, *_):
        self.seen.append(ask(self.other.wait_for, self.gate).result(LIMIT))

    def set_gate(self, gate):
        self.gate = gate
        return os.getpid()


class AsksBeforeItWaits(AsksOnSignals):
    """Is hit by the signal where it has found its mailbox empty and does not wait yet."""

    def set_gate(self, gate):
        hit_before(_current._loop, "_wait")
        return super().set_gate(gate)


class AsksWhileItClears(AsksOnSignals):
    """Is hit by the signal where all that it has received is executed, and to be forgotten."""

    def set_gate(self, gate):
        _inbox._FRONT = 0  # or else that would be soon enough later
        hit_before(_current._loop._inbox, "_clear")
        return super().set_gate(gate)


class GivesAway:
    """Has its rows no more when they are pickled."""

    def __init__(self, count):
        self.rows = [*range(count)]

    def __getstate__(self):
        rows, self.rows = self.rows, []
        return {"rows": rows}
