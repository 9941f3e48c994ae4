"""Processes that are led step by step, and what they do with a mailbox. Without pytest, as `mailbox_workers`."""

from __future__ import annotations

import pickle
import signal
from queue import Empty, Full

from mailbox_workers import die
from support import LIMIT

#: The answer of one that is no more.
DIED = "died"


class Worker:
    """A process that is led; its mailbox comes with its start, or as the first message."""

    def __init__(self, context, mailbox, by_message):
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(None if by_message else mailbox, other), daemon=True)
        self.process.start()
        other.close()
        if by_message:
            self.connection.send(mailbox)
        self.waits_to = None  # "put" or "get"
        self.number = None  # what it waits to put

    def tell(self, *step):
        self.connection.send(step)

    def answer(self):
        assert self.connection.poll(LIMIT), "a step does not end"
        try:
            answer = self.connection.recv()
        except EOFError:
            return DIED
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self):
        self.process.kill()
        self.process.join(LIMIT)
        assert -signal.SIGKILL == self.process.exitcode
        self.close()

    def end(self):
        self.connection.send(None)
        self.process.join(LIMIT)
        assert 0 == self.process.exitcode
        self.close()

    def close(self):
        self.connection.close()
        self.process.close()


def _work(mailbox, connection):
    if mailbox is None:
        mailbox = connection.recv()
    while (step := connection.recv()) is not None:
        try:
            connection.send(perform(mailbox, *step))
        except Exception as error:
            connection.send(error)


def perform(mailbox, step, *args):
    return STEPS[step](mailbox, *args)


def _put(mailbox, first, shapes, block=False):
    """Puts an item of each shape; returns how many there was room for."""
    for number, shape in enumerate(shapes, first):
        try:
            mailbox.put(item(number, *shape), block)
        except Full:
            return number - first
    return len(shapes)


def _get(mailbox, count, block=False):
    """The numbers of the items that it gets, so many at most."""
    numbers = []
    while len(numbers) < count:
        try:
            number, kind, size, data = mailbox.get(block)
        except Empty:
            break
        assert bytes(data) == bytes(item(number, kind, size)[3])
        numbers.append(number)
    return numbers


def _pass(mailbox, first, shapes):
    """Gets one and puts one, in turns; returns what it got each time, and whether it put."""
    return [(_get(mailbox, 1), _put(mailbox, number, [shape])) for number, shape in enumerate(shapes, first)]


def _look(mailbox):
    return mailbox.qsize(), mailbox.empty(), mailbox.full()


def _die(mailbox, where, *step):
    return die(where, perform, mailbox, *step)


STEPS = {"put": _put, "get": _get, "pass": _pass, "look": _look, "die": _die}


def item(number, kind, size):
    """An item that can be told from others to the last byte; of the kind "pickle", its pickle is so large."""
    length = size
    if kind == "pickle":
        length -= len(pickle.dumps((number, kind, size, bytes(300)), 5)) - 300
    data = bytes([number % 251]) * length
    return number, kind, size, pickle.PickleBuffer(data) if kind == "buffer" else data
