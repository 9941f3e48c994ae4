"""The objects that the tests wrap, and how they wait. Importable in every process, whatever its start method."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import resource
import signal
import termios
import time
from array import array

from pactor import _wire

PAGE = 4096  # the capacity of the fixture `fifo`: the smaller, the sooner there is no room
LIMIT = 30  # seconds; nothing here takes a tenth of that on an idle machine


def eventually(condition, message=lambda: "it did not come true", limit=LIMIT):
    """Waits until the condition holds; fails where it does not in time."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, message()
        time.sleep(0.005)
    return value


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.2f} s"


def touch(path):
    """Makes an empty file. There is never a file object, of which a Ctrl-C would have Python say that it was open."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def results(futures):
    return [future.result(LIMIT) for future in futures]


def runs(pid):
    """Whether a process runs; one that has ended and was not reaped does not."""
    try:
        return _state(pid) not in "ZX"
    except FileNotFoundError:
        return False


def sleeps(pid):
    """Whether a process waits for something."""
    return _state(pid) == "S"


def _state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def processes():
    """All processes that come from this one, but for the helpers that multiprocessing keeps."""
    parents = [os.getpid()]
    for parent in parents:
        for pid in _children(parent):
            parents.append(pid)
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
                name = file.read().replace("\0", " ")
                # By more than a word: a process that was forked has our arguments, and `-k forkserver` may be one.
                helper = "multiprocessing.forkserver" in name and parent == os.getpid()
                if not helper and "multiprocessing.resource_tracker" not in name:
                    yield pid, name


def _children(parent):
    # The kernel's own list: among all processes of a busy machine it takes as long as a test to look for them.
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{thread}/children") as file:
                yield from map(int, file.read().split())


def frames_in(data):
    """The kinds and the rest of the frames that a read brought. What is no frame, and all behind it, is left out."""
    position = 0
    while position + _wire.HEADER_SIZE <= len(data):
        size, kind = _wire.HEADER.unpack_from(data, position)
        if not _wire.HEADER_SIZE <= size <= len(data) - position:
            return
        yield kind, data[position + _wire.HEADER_SIZE : position + size]
        position += size


def hit_before(obj, name):
    """Has this process get a SIGUSR1 right before the next call of a method."""
    method = getattr(obj, name)

    def hit_and_call():
        setattr(obj, name, method)
        signal.raise_signal(signal.SIGUSR1)
        return method()

    setattr(obj, name, hit_and_call)


def store(directory, obj):
    """Stores an object as a large one is; returns the file's name."""
    return _wire._stored(str(directory), *_wire._pickled(obj))


def unread(fifo):
    """How many bytes there are in a FIFO."""
    count = array("i", [0])
    fcntl.ioctl(fifo, termios.FIONREAD, count)
    return count[0]


@contextlib.contextmanager
def limited(which, most):
    """With fewer resources than usual."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def free_descriptors(count):
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    return limited(resource.RLIMIT_NOFILE, lowest + count)


class Interrupt(BaseException):
    """What a signal handler raises: like Ctrl-C, or a timeout."""


class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.value = start

    def add(self, n=1):
        """Adds n."""
        self.value += n

    def total(self):
        return self.value


class Recorder:
    """Remembers what it was told, and does what it is asked to."""

    def __init__(self):
        self.seen = []

    def note(self, *items):
        self.seen.append(items if len(items) != 1 else items[0])

    def all(self):
        return self.seen

    def echo(self, value=None):
        return value

    def repeat(self, value, times):
        return value * times

    def pid(self):
        return os.getpid()

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds

    def fail(self, error):
        raise error

    def kill(self, number=signal.SIGKILL):
        faulthandler.disable()  # what it would print of a SIGSEGV is no news
        os.kill(os.getpid(), number)

    def exit(self, code):
        os._exit(code)

    def note_and_repeat(self, n):
        self.seen.append(n)
        if n > 1:
            self.enqueue(self.note_and_repeat, n - 1)

    def enqueue_many(self, n):
        for i in range(n):
            self.enqueue(self.note, i)

    def tell(self, proxy, *items):
        proxy.note(*items)

    def wait_for(self, gate):
        """Says that it waits, with a file beside the gate, and blocks until the gate is there."""
        touch(f"{gate}.reached")
        eventually(lambda: os.path.exists(gate))


def reached(gate):
    """Waits until somebody waits for the gate."""
    eventually(lambda: os.path.exists(f"{gate}.reached"))


def ends(actor):
    """Whether an actor ends in time. If not it is killed, or to leave its block would be to wait for it."""
    has_ended = actor.join(LIMIT)
    actor.kill()
    return has_ended
