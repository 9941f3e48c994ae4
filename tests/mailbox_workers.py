"""What the processes of the mailbox's tests do. Without pytest, so that a spawned one starts soon."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
from queue import Empty


def record(path, *words):
    """Writes a line that is whole or not there, whenever this process is killed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, " ".join(map(str, words)).encode() + b"\n")
    finally:
        os.close(fd)


def recorded(path):
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


SIZES = [0, 10, 3_000, 0, 4_090, 5, 20_000, 1, 100_000, 2]


def item(sender, number):
    """Of many sizes, and each to be told from any other to the last byte."""
    return sender, number, bytes([number % 251]) * SIZES[number % len(SIZES)]


def produce(mailbox, sender, count):
    for number in range(count):
        mailbox.put(item(sender, number))


def consume(mailbox, path):
    """Records what it gets, up to a None."""
    while (found := mailbox.get()) is not None:
        assert found == item(*found[:2])
        record(path, *found[:2])


def put_all(mailbox, items):
    for each in items:
        mailbox.put(each)


def get_into(mailbox, results, count):
    for _ in range(count):
        results.put(mailbox.get())


def put_when_told(mailbox, go, done, items):
    go.wait()
    put_all(mailbox, items)
    done.set()


def get_when_told(mailbox, go, done, count):
    go.wait()
    for _ in range(count):
        mailbox.get()
    done.set()


def keep(mailbox, way):
    for _ in range(2):
        way.get()


def get_nowait_in_a_process(mailbox):
    with_child(_get_nowait, mailbox)


def _get_nowait(mailbox):
    try:
        mailbox.get(block=False)
    except Empty:
        pass


def put_two_and_nest_once(mailbox):
    mailbox.put(2)
    with_child(mailbox.put, 1)


def with_child(target, *args):
    child = multiprocessing.Process(target=target, args=args, daemon=True)
    child.start()
    child.join()
    assert 0 == child.exitcode


def die(where, method, *args):
    """Calls a method in a process that is killed at a place, as "after module:Class.function"."""
    when, name = where.split()
    module, path = name.split(":")
    *owners, attribute = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def deadly(*args, **kwargs):
        if when == "half":  # of the parts that it writes
            *parts, last = args[1]
            function(args[0], [*parts, last[: len(last) // 2]])
        elif when == "after":
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, deadly)
    return method(*args)
