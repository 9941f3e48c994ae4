"""What the tests of messages of an actor to itself wrap. Without pytest, so that a spawned process starts soon."""

from __future__ import annotations

import os
import signal
import time

from support import Counter, Recorder

from pactor import Enqueue


class Selfish(Recorder):
    def wrong(self, what):
        bad = {
            "function": lambda: None,
            "other": Counter().total,
            "another": Selfish().note,
            "text": "note",
            "arguments": self.exit,
            "builtin": print,
        }[what]
        try:
            self.enqueue(bad)
        except TypeError as error:
            return str(error)

    def unpicklable(self):
        try:
            self.enqueue(self.note, lambda: None)
        except Exception as error:
            return type(error).__name__

    def kinds(self):
        return isinstance(self.enqueue, Enqueue), repr(self.enqueue)

    def give(self):
        return self.enqueue

    def snapshot(self):
        return self

    def later(self, *delays):
        self.due_before = {}
        for delay in delays:
            due_from = time.monotonic() + delay
            self.enqueue_later(delay, self.arrive, due_from)
            self.due_before[due_from] = time.monotonic() + delay

    def arrive(self, due_from):
        self.seen.append((due_from, self.due_before[due_from], time.monotonic()))

    def later_cancelled(self):
        timers = [self.enqueue_later(0.01 * i, self.note, i) for i in range(10)]
        for timer in timers[::2]:
            timer.cancel()
            timer.cancel()

    def later_wrong(self, delay):
        try:
            self.enqueue_later(delay, self.note)
        except (TypeError, ValueError) as error:
            return error

    def later_many(self, n):
        for i in range(n):
            self.enqueue_later(0.05, self.note, i)

    def later_on_signal(self, gate):
        signal.signal(signal.SIGUSR1, lambda *_: self.enqueue_later(0.05, self.wait_for, gate))
        return os.getpid()

    def later_large(self, cancel):
        timer = self.enqueue_later(0.01, self.note, bytes(1_000_000))
        if cancel:
            timer.cancel()


class Enqueues(Recorder):
    def enqueue_of_size(self, size):
        self.enqueue(self.note, bytes(size))
