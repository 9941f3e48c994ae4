"""What the rows of the fault table wrap, and run in processes. Without pytest, so that a spawned one starts soon."""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings

from ask_actors import TwoArguments, Unloadable
from mailbox_workers import record
from support import LIMIT, Recorder

from pactor import Actor, ActorError, ask


class Logged(Recorder):
    """Writes what pactor logs in its process to a file."""

    def __init__(self, path):
        super().__init__()
        logging.getLogger("pactor").addHandler(logging.FileHandler(path))

    @classmethod
    def to(cls, path):
        return functools.partial(cls, path)


class Asker(Recorder):
    def ask_until_error(self, proxy):
        while True:
            try:
                ask(proxy.echo).result(LIMIT)
            except ActorError as error:
                return type(error), str(error)


class Recording(Recorder):
    """Notes in a file, which outlives it."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def note(self, item):
        record(self.path, item)


class Stopping(Recorder):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_stop(self):
        record(self.path, "stopped")


class Owner:
    """An actor that makes actors."""

    def make(self, method, target=None):
        self.child = Actor(target or Recorder(), context=multiprocessing.get_context(method))
        return self.child.proxy

    def child_pid(self):
        return self.child.pid

    def close_child(self):
        self.child.close()
        self.child.close()
        return self.child.join(LIMIT)


# Messages.


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Fails(Recorder):
    """Does what its methods are called."""

    def raise_two_arguments(self):
        raise TwoArguments(1, 2)

    def raise_unpicklable(self):
        raise HoldsALock()

    def return_unpicklable(self):
        return threading.Lock()

    def return_unloadable(self):
        return Unloadable()

    def sys_exit(self):
        sys.exit("enough")

    def interrupt(self):
        raise KeyboardInterrupt

    def segfault(self):
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)


class FailsInOnStart:
    def on_start(self):
        raise ValueError("no way")

    def note(self, *items):
        pass


class NeverStarts:
    def __init__(self, gate):
        Recorder().wait_for(gate)

    def note(self, *items):
        pass


class NeverEndsOnStart:
    def __init__(self, gate):
        self.gate = gate

    def on_start(self):
        Recorder().wait_for(self.gate)

    def note(self, *items):
        pass


class HasClose(Recorder):
    """Its close is a method like any other."""

    def close(self):
        self.note("closed")


# Load.


class Flooder:
    """Sends to the others as fast as it can, which do the same."""

    def __init__(self):
        self.count = 0

    def flood(self, others, n):
        for _ in range(n):
            for other in others:
                other.receive()

    def receive(self):
        self.count += 1

    def received(self):
        return self.count


class Eater:
    """Takes what is large and keeps nothing of it."""

    def __init__(self):
        self.count = self.size = 0

    def eat(self, number, data):
        assert number == self.count, f"number {number} came after {self.count}, with {data[0]} and {data[-1]}"
        assert data[0] == data[-1] == number % 251
        self.count += 1
        self.size += len(data)

    def eaten(self):
        return self.count, self.size

    def size_of(self, data):
        return len(data)

    def shared_memory(self):
        """What of it this process has mapped, in KB."""
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssShmem"))

    def wait_for(self, gate):
        Recorder().wait_for(gate)


class Node:
    """Asks the next one to ask the next one, and so on."""

    def meet(self, proxy):
        self.next = proxy

    def ask_next(self):
        return ask(self.next.ask_next).result()

    def alive(self):
        return True


class Storm:
    def __init__(self):
        self.count = 0

    def blow(self, count):
        for number in range(count):
            self.enqueue(self.drop, number)

    def drop(self, number):
        assert number == self.count
        self.count += 1

    def counted(self):
        return self.count


def feed(proxy, count, size):
    for number in range(count):
        proxy.eat(number, pickle.PickleBuffer(bytes([number % 251]) * size))


def note_all(proxy, items):
    for each in items:
        proxy.note(each)


# Forks.


def fork_sleepers(method):
    """Children of each kind, which hold what such a child holds, also when their parent is gone; beside a thread.

    Returns their ids too.
    """
    thread = threading.Thread(target=time.sleep, args=(0.2,))
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer versions: a fork beside a thread
        pid = os.fork()
        if not pid:
            time.sleep(LIMIT)
            os._exit(0)
        process = multiprocessing.get_context(method).Process(target=time.sleep, args=(LIMIT,))
        process.start()
    child = subprocess.Popen(["sleep", str(LIMIT)], close_fds=False)
    thread.join()
    return process, child, [pid, process.pid, child.pid]


class Forker(Recorder):
    def fork(self, method):
        self.process, self.child, pids = fork_sleepers(method)
        return pids


# Others.


def leave_marker(path):
    open(path, "w").close()


class Bomb:
    """Shows that it was unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return leave_marker, (self.path,)


class Consumer:
    """Notes in a file, which outlives it, the last number of each producer; each must be above the one before."""

    def __init__(self, path):
        self.path = path

    def take(self, producer, number, _payload):
        with open(self.path, "r+b", buffering=0) as file:
            last = int.from_bytes(os.pread(file.fileno(), 8, 8 * producer), "little")
            if number <= last:
                open(f"{self.path}.wrong", "a").write(f"{producer}: {number} behind {last}\n")
            os.pwrite(file.fileno(), number.to_bytes(8, "little"), 8 * producer)

    def take_and_die(self, number):
        """For the second time it would not be above the one before."""
        self.take(0, number, b"")
        os.kill(os.getpid(), signal.SIGKILL)


class Producer:
    def __init__(self, index, consumers):
        self.index = index
        self.consumers = consumers
        self.number = 0

    def produce(self):
        self.number += 1
        for consumer in self.consumers:
            consumer.take(self.index, self.number, bytes((10, 10, 10, 5_000, 100_000)[self.number % 5]))
        self.enqueue(self.produce)
