"""The model of a mailbox and of those who use it, with what each step is held to.

Each step ends before the next begins, but for those that wait. So the model is a list of what is queued; where a
process was killed at a moment that nobody knows, some of it is in doubt.
"""

from __future__ import annotations

import collections
import gc
import itertools
import multiprocessing
import os
import sys
from multiprocessing import connection

from led_workers import Worker, perform
from support import LIMIT, eventually

from pactor import Mailbox


class Model:
    """Who takes part, and what is in the mailbox."""

    def begin(self, method, maxsize):
        self.context = multiprocessing.get_context(method)
        self.maxsize = maxsize
        self.mailbox = Mailbox(maxsize)
        self.workers = []
        self.numbers = itertools.count()
        self.queue = collections.deque()  # the numbers of the items
        self.doubtful = set()  # those that may not be there
        self.overtaken = set()  # those whose senders went on together, so nobody knows their order
        self.lost = 0  # slots, at most, that killed processes took with them
        self.orphans = 0  # payloads, at most, that killed senders left

    # How many are queued, and for how many more there is room; lost slots count for the most.

    @property
    def least(self):
        return len(self.queue) - len(self.doubtful)

    @property
    def most(self):
        return len(self.queue) + self.lost

    @property
    def room(self):
        return (self.maxsize or sys.maxsize) - self.least

    def check_end(self):
        """All works again, and nothing is left."""
        self.get_rid_of_readers()
        self.settle()
        self.put_shapes(0, [("bytes", 1)] * (self.maxsize or 3))
        assert self.least == self.most == (self.maxsize or 3)
        self.settle()
        names = os.listdir(self.mailbox.directory)
        payloads = [name for name in names if name[0].isdigit()]
        assert {"fifo", "inbox", *["slots"] * bool(self.maxsize)} == {*names} - {*payloads}
        assert len(payloads) <= self.orphans
        while self.workers:
            self.workers.pop().end()
        directory = self.mailbox.directory
        del self.mailbox
        gc.collect()
        assert not os.path.exists(directory)

    def clear(self):
        """Leaves nothing, whatever went wrong."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join(LIMIT)
            worker.close()
        self.workers.clear()
        vars(self).pop("mailbox", None)

    def worker(self, who):
        """A process that has nothing to do."""
        idle = [worker for worker in self.workers if not worker.waits_to]
        if not idle:
            idle = [Worker(self.context, self.mailbox, by_message=bool(who % 2))]
            self.workers += idle
        return idle[who % len(idle)]

    def waiting(self, to):
        return [worker for worker in self.workers if worker.waits_to == to]

    def perform(self, who, *step):
        if not who:
            return perform(self.mailbox, *step)
        worker = self.worker(who)
        worker.tell(*step)
        return worker.answer()

    def put_shapes(self, who, shapes):
        numbers = [next(self.numbers) for _ in shapes]
        count = self.perform(who, "put", numbers[0], shapes)
        self.check_put(count, len(shapes))
        self.queue += numbers[:count]
        self.serve_readers()

    def put_patiently(self, who, shape):
        readers = self.waiting("get")  # such a one also puts back the slots that were lost
        if not readers and self.least < self.most:
            self.settle()
        worker = self.worker(who)
        number = next(self.numbers)
        worker.tell("put", number, [shape], True)
        if self.room > 0 or readers:
            assert 1 == worker.answer()
            self.queue.append(number)
            self.serve_readers()
        else:
            worker.waits_to, worker.number = "put", number

    def check_put(self, count, wanted):
        doubt = self.most - self.least
        assert min(wanted, max(0, self.room - doubt)) <= count <= min(wanted, self.room)

    def get_numbers(self, who, count):
        self.check_got(self.perform(who, "get", count), count)
        self.serve_senders()

    def check_got(self, numbers, wanted):
        for number in numbers:
            self.match(number)
        # Senders that go on may be making room: who doesn't wait finds nothing meanwhile.
        if len(numbers) < wanted and not self.waiting("put"):
            assert not self.least, "something is queued, and nobody finds it"
            self.queue.clear()
            self.doubtful.clear()
            if not self.waiting("get"):  # who found nothing to read puts back the slots that are lost
                self.lost = 0

    def match(self, number):
        """An item was got: it is the first in the queue, behind nothing but what may not be there."""
        sender = next((worker for worker in self.waiting("put") if worker.number == number), None)
        if sender is None:
            assert number in self.queue, "it was not put, or was got before"
            earlier = [*itertools.takewhile(lambda each: each != number, self.queue)]
            self.queue.remove(number)
        else:  # it has put, and not yet said so
            earlier = [*self.queue]
            sender.number = None
        for each in earlier:
            if each in self.doubtful:
                self.queue.remove(each)
            else:
                assert each in self.overtaken and (sender or number in self.overtaken), "it overtook another"
        self.doubtful.difference_update(earlier, [number])

    def lose_first(self, sure):
        """Who was killed took the first with it, or one before it that was in doubt."""
        if sure and self.queue and self.queue[0] not in self.doubtful:
            self.queue.popleft()
            return
        first = next((number for number in self.queue if number not in self.doubtful), None)
        if first is not None:
            self.doubtful.add(first)

    def bury(self, worker, room=1):
        worker.kill()
        self.workers.remove(worker)
        if self.maxsize and room > 0:
            self.lost += 1

    def serve_readers(self):
        """Those that wait get what is queued."""
        while self.queue and (waiting := self.waiting("get")):
            worker = self.first_to_answer(waiting)
            self.match(*worker.answer())
            worker.waits_to = None

    def serve_senders(self):
        """Those that wait put where there is room."""
        while self.maxsize and self.room > 0 and (waiting := self.waiting("put")):
            self.take_answer(self.first_to_answer(waiting))

    def settle_senders(self):
        if self.waiting("put"):
            self.settle()

    def settle(self):
        """Gets all that there is, until nobody waits to put and nothing is in doubt."""
        eventually(self.nobody_waits_to_put)
        self.check_got(perform(self.mailbox, "get", sys.maxsize), sys.maxsize)
        self.overtaken.clear()

    def nobody_waits_to_put(self):
        self.check_got(perform(self.mailbox, "get", sys.maxsize), sys.maxsize)
        for worker in self.waiting("put"):
            if worker.connection.poll(0):
                self.overtaken.add(worker.number)
                self.take_answer(worker)
        return not self.waiting("put")

    def take_answer(self, sender):
        assert 1 == sender.answer()
        if sender.number is not None:
            self.queue.append(sender.number)
        sender.waits_to = sender.number = None

    def get_rid_of_readers(self):
        while self.waiting("get"):
            self.put_patiently(1, ("bytes", 0))

    def first_to_answer(self, workers):
        ready = connection.wait([worker.connection for worker in workers], LIMIT)
        assert ready, "nobody goes on"
        return next(worker for worker in workers if worker.connection in ready)
