"""What the tests of restarts wrap, and run in processes. Without pytest, so that a spawned one starts soon."""

from __future__ import annotations

import gc
import itertools
import math
import multiprocessing
import os
import pickle
import signal
import struct
import weakref

from mailbox_workers import die
from support import LIMIT, Counter, Recorder

from pactor import Actor, Mailbox, Restart, ask

FOREVER = Restart(max_restarts=math.inf, backoff=0)


class Counting(Recorder, Counter):
    def __init__(self, start=0):
        Recorder.__init__(self)
        Counter.__init__(self, start)


class KilledByPayload:
    def take(self, value):
        return value


class Deadly:
    """Kills the process that loads it."""

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return _die, (self.data,)


def _die(data):
    os.kill(os.getpid(), signal.SIGKILL)


class DiesInRepair(Recorder):
    """Is killed when it has put lost slots back, with the lock in hand."""

    def die_in_repair(self):
        die("after pactor._slots:ReaderSlots._put", self.all)


class FailsAtFirst:
    """Fails to start as often as there are files to remove."""

    def __init__(self, directory):
        for path in directory.iterdir():
            path.unlink()
            raise OSError("not yet")

    def value(self):
        return 1


class Logger(Recorder):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def write(self, item):
        with open(self.log, "a") as file:
            file.write(str(item))


class RestartingOwner:
    def make(self, method):
        self.child = Actor(Recorder(), context=multiprocessing.get_context(method), on_failure=FOREVER)
        return self.child.proxy, [self.child.pid, self.child._process.pid]


#: It divides the page size: Linux may cut a killed process's write to a file between two pages, and nowhere else.
ENTRY = struct.Struct("<QQ")


class Journal:
    """Writes down what it executes, so that it outlives the process; and answers."""

    def __init__(self, path):
        self.file = open(path, "ab", buffering=0)

    def __reduce__(self):
        return Journal, (self.file.name,)

    def write(self, sender, number):
        os.write(self.file.fileno(), ENTRY.pack(sender, number))

    def echo(self, value):
        return value


def send(proxy, sender, least, gate):
    """Sends so many at least, and on until the gate is there; writes down how many."""
    for number in itertools.count():
        if number >= least and number % 100 == 0 and os.path.exists(gate):
            break
        proxy.write(sender, number)
    with open(f"{gate}.{sender}", "w") as file:
        file.write(str(number))


class Asks(Recorder):
    """Dies while it waits for a reply; the next process asks somebody else."""

    def ask_and_die(self, slow, gate):
        ask(slow.wait_for, gate)
        self.kill()

    def ask_for_echo(self, other, value):
        return ask(other.echo, value).result(LIMIT)


class Hoarder:
    """Asks, and never looks at the replies."""

    def ask_much(self, proxy):
        self.futures = [ask(proxy.repeat, "x", 3000) for i in range(60)]


class Delays(Recorder):
    def note_later(self, size):
        self.enqueue_later(1000, self.note, bytes(size))


class FailsAtGate(Recorder):
    def fail_at(self, gate):
        self.wait_for(gate)
        raise ValueError("too late")


class NeverStarts:
    def __init__(self):
        raise OSError("no database")

    def value(self):
        return 1


class ExitsAtStart:
    def __init__(self, how):
        self.how = how
        if how == "init":
            raise SystemExit(5)

    def on_start(self):
        raise SystemExit(5)

    def value(self):
        return 1


class Holds(Recorder):
    def __init__(self, mailbox):
        super().__init__()
        self.mailbox = mailbox

    def put_and_get(self, item):
        self.mailbox.put(item)
        return self.mailbox.get(timeout=LIMIT)

    def sends_and_forgets(self):
        mailbox = Mailbox()
        pickle.dumps(mailbox)
        reference = weakref.ref(mailbox)
        del mailbox
        gc.collect()
        return reference() is None
