"""Odd things that are wrapped, sent and raised. Without pytest, so that a spawned process starts soon."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import sys
import weakref
from typing import Annotated, Generic, TypeVar

from support import Recorder

from pactor import Actor, ActorError

T = TypeVar("T")


class Panic(BaseException):
    """As extensions raise that are written in other languages."""


def panic():
    raise Panic("spam")


class PanicsWhenLoaded:
    def __reduce__(self):
        return panic, ()


class ExitsWhenLoaded:
    def __reduce__(self):
        return sys.exit, (3,)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    pass


class Box(Recorder, Generic[T]):
    pass


class Line(Recorder):
    """Writes to a socket or a connection, its own or one that comes in a message."""

    def __init__(self, line=None):
        self.line = line

    def write(self, data, line=None, ballast=None):
        with line or self.line as file:
            os.write(file.fileno(), data)


class Pickled(Recorder):
    def __init__(self, text):
        self.text, self.state = text, "made"

    def __setstate__(self, state):
        self.__dict__.update(state, state="loaded")

    def how(self):
        return self.state


class Hiding(type):
    """Leaves out what its classes have, as that of Enum does."""

    def __dir__(cls):
        return []


class Odd(Recorder, metaclass=Hiding):
    Port = Annotated[int, {"min": 1}]

    def dead(self):
        return weakref.proxy(Odd())

    def write_no_files(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def panics(self):
        return PanicsWhenLoaded()

    def exits(self):
        return ExitsWhenLoaded()

    def exit_with(self, code):
        sys.exit(code)

    def raise_frozen(self):
        raise Frozen

    def note_later(self, value):
        self.enqueue(self.note, value)


class Table(dict):
    pass


class Sends:
    def note_many(self, proxy, count):
        """Returns how many were accepted."""
        for number in range(count):
            try:
                proxy.note(number)
            except ActorError:
                return number
        return count


class Counts(Recorder):
    """Leaves word of how many it has noted."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_stop(self):
        with open(self.path, "w") as file:
            file.write(str(len(self.seen)))


class Owner:
    def make(self, method, **kwargs):
        self.actor = Actor(Recorder(), name="owned", context=multiprocessing.get_context(method), **kwargs)
        return self.actor.proxy
