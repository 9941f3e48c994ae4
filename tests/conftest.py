"""What every test is given, and held to: that it leaves no process, descriptor, thread, file or mailbox."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import multiprocessing
import os
import signal
import threading

import pytest
from support import PAGE, Counter, eventually, processes

from pactor import Actor, _blocks, _runtime, ask

METHODS = ("fork", "forkserver", "spawn")

# What the tests wrap is in modules that import much. (Programs of the tests have a fork server that knows of nothing.)
_ACTORS = [
    f"{what}_actors" for what in ("plain", "ask", "current", "enqueue", "later", "restart", "fault", "async", "edge")
]
multiprocessing.set_forkserver_preload(["pytest", "hypothesis", "support", "mailbox_workers", *_ACTORS])

# A shell starts what is to run in the background with SIGINT ignored, and all that comes from it would ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The test command starts pytest with SIGILL ignored. It is to end it, behind the stacks that faulthandler prints.
signal.signal(signal.SIGILL, signal.SIG_DFL)


@pytest.fixture(params=METHODS)
def context(request):
    """A context of multiprocessing, for each start method."""
    return multiprocessing.get_context(request.param)


@pytest.fixture
def start(context):
    """Starts a process; those that have not ended at the end of the test are killed."""
    started = []

    def start(target, *args):
        process = context.Process(target=target, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()


@pytest.fixture
def fifo(tmp_path):
    """A FIFO of one page, open for both."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    fd = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def gate(tmp_path):
    """A file to wait for, which is there at the end whatever the test did."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def on_alarm():
    """Sets a handler of SIGALRM."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session", autouse=True)
def _started():
    """Has everything running that a process of pactor and of multiprocessing keeps: it is no leak."""
    for method in METHODS:
        with Actor(Counter(), context=multiprocessing.get_context(method)) as actor:
            assert asyncio.run(_total(actor)) == 0
            assert actor.pid in dict(processes())  # or no test would ever see one that it left
    gc.collect()
    gc.freeze()  # what is there now need not be looked through after every test


async def _total(actor):
    return await ask(actor.proxy.total)


@pytest.fixture(autouse=True)
def leaves_nothing(_started, request):
    """Fails a test that leaves something behind."""
    before, running = _things(), dict(processes())
    yield
    request.node.funcargs.clear()  # a proxy that a fixture gave has its way open for as long as somebody has it

    def left():
        gc.collect()  # each time: what a thread still has in hand is no garbage before it lets go
        return sorted(_things() - before)

    try:
        # What was killed needs a moment to be gone.
        eventually(lambda: not left(), lambda: f"left behind: {left()}", limit=10)
    except AssertionError:
        with contextlib.suppress(AssertionError):
            eventually(lambda: not _kill(pid for pid, name in processes() if name and pid not in running))
        raise
    gc.freeze()  # pytest keeps much of each test, and to look through all of it again would take most of the time


def _kill(pids):
    """Kills processes: pytest would wait for them at its end. Returns those that there were; zombies have no name."""
    found = list(pids)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _things():
    return {
        *(f"process {pid}: {name}" for pid, name in processes()),
        *(f"descriptor {fd}: {target}" for fd, target in _descriptors() if not _is_of_block(fd, target)),
        *(f"thread {thread.name}" for thread in threading.enumerate()),
        *_files(_runtime.home().path),
    }


def _files(home):
    for path, directories, names in os.walk(home):
        # A process keeps some memory to send large payloads with.
        directories[:] = [name for name in directories if not name.startswith("blocks.")]
        # And an actor that died leaves word why: a directory with a note, no more.
        if path != home and [*directories, *names] != ["note"]:
            yield path
        yield from (f"{path}/{name}" for name in names if name != "note")


def _is_of_block(fd, target):
    if "/blocks." in target:
        return True
    with contextlib.suppress(OSError):
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) in _blocks._known
    return False


def _descriptors():
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
