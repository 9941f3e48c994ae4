"""The mailbox against a model of it: processes that put, get, wait and are killed, in any order that hypothesis tries.

The number of examples is in the environment variable PACTOR_EXAMPLES for a long run, which takes new ones each time::

    PACTOR_EXAMPLES=3000 python -m pytest tests/test_mailbox_model.py --timeout 0
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import sys
import time

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from led_workers import DIED, Worker
from mailbox_model import Model

from pactor import _mailbox, _wire

MOST_WORKERS = 4

FITS = _wire.MAX_FRAME - _wire.HEADER_SIZE
SMALL = [("bytes", 0), ("bytes", 500), *(("pickle", FITS + more) for more in (-2, -1, 0))]
LARGE = [
    *(("pickle", FITS + more) for more in (1, 2)),
    *(("bytes", _wire.OUT_OF_BAND + more) for more in (-1, 1)),
    *(("buffer", _wire.OUT_OF_BAND + more) for more in (-1, 0, 1)),
    ("bytes", 1_000_000),
]

# Where a process is killed, with what kind of items, and whether its own is in the mailbox then.
PUTTING = {
    "before pactor._channel:Channel.pack": ("any", False),
    "half os:writev": ("large", False),
    "half pactor._blocks:_fill": ("large", False),
    "before pactor._blocks:_fill": ("large", False),
    "before os:link": ("large", False),
    "after os:link": ("large", False),
    "after pactor._slots:SenderSlots._take": ("any", False),
    "before os:write": ("any", False),
    "after os:write": ("any", True),
    "after pactor._channel:Channel.send": ("any", True),
    # It receives, where the FIFO is full.
    "after pactor._inbox:Inbox.recover": ("full", False),
    "before pactor._inbox:Inbox.pull": ("full", False),
    "after pactor._inbox:Inbox.pull": ("full", False),
    "before pactor._inbox:Inbox._make_room": ("full", False),
    "before pactor._inbox:Inbox._grow": ("full", False),
    "after pactor._files:mapped": ("full", False),
    "after pactor._inbox:Inbox._grow": ("full", False),
}

#: Where a large item has no file yet that would be left.
FILELESS = (
    "before pactor._channel:Channel.pack",
    "half os:writev",
    "before pactor._blocks:_fill",
    "half pactor._blocks:_fill",
    "before os:link",
)

# Where a process is killed, with what kind of items, and whether it takes one with it; None where it may.
GETTING = {
    "after fcntl:flock": ("any", False),
    "after pactor._inbox:Inbox.recover": ("any", False),
    "before pactor._inbox:Inbox.pull": ("any", False),
    "after pactor._inbox:Inbox.pull": ("any", False),
    "before pactor._inbox:Inbox._clear": ("none", False),
    "after pactor._inbox:Inbox._clear": ("none", False),
    "before os:truncate": ("none", False),
    "after os:truncate": ("none", False),
    "after pactor._inbox:Inbox.take": ("any", None),
    "before pactor._wire:claim": ("large", True),
    "after pactor._wire:claim": ("large", True),
    "before pactor._blocks:release": ("large", True),
    "before pactor._inbox:Inbox.finish": ("any", True),
    "after pactor._inbox:Inbox.finish": ("any", True),
    "before pactor._slots:ReaderSlots.give": ("any", True),
    "after pactor._slots:ReaderSlots.give": ("any", True),
    "after pactor._wire:read": ("large", True),
}

#: This process, or one of the others.
who = strategies.integers(0, MOST_WORKERS)
shapes = strategies.sampled_from(SMALL + LARGE)
small = strategies.sampled_from(SMALL)
moments = strategies.integers(0, 2000)


def places(table):
    """The places, each with an item's shape that leads there."""
    pairs = [(where, shape) for where in table for shape in (LARGE if table[where][0] == "large" else SMALL + LARGE)]
    return strategies.sampled_from(pairs)


class Machine(Model, RuleBasedStateMachine):
    """The steps; which there are, and what hypothesis draws for them, never depends on what came of those before."""

    method = "fork"

    @initialize(maxsize=strategies.sampled_from([0, 0, 1, 2, 400]), narrow=strategies.booleans())
    def make(self, maxsize, narrow):
        """A FIFO of one page is full at once, and the inbox at its end soon."""
        self.begin(self.method, maxsize)
        if narrow:
            fcntl.fcntl(self.mailbox.fifo, fcntl.F_SETPIPE_SZ, 4096)

    @rule(by_message=strategies.booleans())
    def start(self, by_message):
        if len(self.workers) < MOST_WORKERS:
            self.workers.append(Worker(self.context, self.mailbox, by_message))

    @rule(who=who, shape=shapes)
    def put(self, who, shape):
        self.put_shapes(who, [shape])

    @rule(who=who, count=strategies.sampled_from([10, 150, 500]), shape=small)
    def put_many(self, who, count, shape):
        # Those that wait would take some meanwhile.
        self.put_shapes(who, [shape] * (1 if self.waiting("get") else count))

    @rule(who=who, shape=small)
    def fill(self, who, shape):
        """The mailbox, up to its bound, or its FIFO, so that the next sender is to make room."""
        if self.waiting("get") or not self.room:
            return
        self.put_shapes(who, [shape] * (self.room if self.maxsize else 10))
        while not self.maxsize and select.select([], [self.mailbox._channel.file], [], 0)[1]:
            self.put_shapes(who, [shape])

    @rule(who=who, count=strategies.sampled_from([1, 20, 200]), shape=small)
    def pass_through(self, who, count, shape):
        """Where there is always something queued, the inbox comes to its end without ever being empty."""
        if self.waiting("get") or self.waiting("put"):
            return
        shapes = [shape] * count
        numbers = [next(self.numbers) for _ in shapes]
        for number, (got, put) in zip(numbers, self.perform(who, "pass", numbers[0], shapes), strict=True):
            self.check_got(got, 1)
            self.check_put(put, 1)
            self.queue += [number] * put

    @rule(who=who, shape=shapes)
    def put_and_wait(self, who, shape):
        self.put_patiently(who, shape)

    @rule(who=who)
    def get(self, who):
        self.get_numbers(who, 1)

    @rule(who=who, count=strategies.sampled_from([10, 140, 490]))
    def get_many(self, who, count):
        # Those that wait would put some meanwhile.
        self.get_numbers(who, 1 if self.waiting("put") else count)

    @rule(who=who)
    def get_and_wait(self, who):
        if self.queue and not self.least:
            self.settle()
        worker = self.worker(who)
        worker.tell("get", 1, True)
        if self.queue:
            self.match(*worker.answer())
            self.serve_senders()
        else:
            worker.waits_to = "get"

    @rule(who=who)
    def look(self, who):
        qsize, empty, full = self.perform(who, "look")
        assert self.least <= qsize <= self.most
        assert qsize <= self.maxsize or not self.maxsize
        if self.least == self.most:
            assert (empty, full) == (not self.queue, self.room == 0)

    @rule(who=who)
    def kill(self, who):
        """One that does nothing, or waits."""
        if self.workers:
            self.workers.pop(who % len(self.workers)).kill()

    @rule(who=who, place=places(PUTTING))
    def kill_while_it_puts(self, who, place):
        where, shape = place
        if PUTTING[where][0] == "full":
            self.fill(0, SMALL[-1])
        worker = self.worker(who)
        number = next(self.numbers)
        worker.tell("die", where, "put", number, [shape])
        answer = worker.answer()  # where it does not come by that place, it puts as any other
        put = PUTTING[where][1] if answer == DIED else answer
        if self.least == self.most:
            assert put <= (self.room > 0)
        self.bury(worker, room=self.room)
        if put:
            self.queue.append(number)
        elif shape in LARGE and where not in FILELESS:
            self.orphans += 1
        self.serve_readers()

    @rule(who=who, place=places(GETTING))
    def kill_while_it_gets(self, who, place):
        where, shape = place
        what, loses = GETTING[where]
        if what == "none":
            # The next to read clears the inbox, which it makes smaller where it has grown.
            self.settle()
            self.put_shapes(0, [SMALL[1]] * (1 if self.waiting("get") else 300))
            self.get_numbers(0, len(self.queue))
        elif not self.queue:
            self.put_shapes(0, [shape])
        worker = self.worker(who)
        worker.tell("die", where, "get", 1)
        answer = worker.answer()
        self.bury(worker)
        if answer != DIED:
            self.check_got(answer, 1)
        elif loses is not False:
            self.lose_first(sure=loses)
        self.settle_senders()

    @rule(who=who, where=strategies.sampled_from([where for where, (what, _) in PUTTING.items() if what == "full"]))
    def kill_while_it_looks(self, who, where):
        """Which moves all that the FIFO holds."""
        self.put_shapes(0, [SMALL[1]] * (1 if self.waiting("get") else 200))
        worker = self.worker(who)
        worker.tell("die", where, "look")
        worker.answer()
        self.bury(worker, room=0)

    @rule(who=who, shape=shapes, after=moments)
    def kill_at_some_moment_of_a_put(self, who, shape, after):
        self.get_rid_of_readers()
        worker = self.worker(who)
        number = next(self.numbers)
        worker.tell("put", number, [shape])
        spin(after)
        if self.room > 0:
            self.queue.append(number)
            self.doubtful.add(number)
        self.bury(worker, room=self.room)
        self.orphans += shape in LARGE

    @rule(who=who, after=moments)
    def kill_at_some_moment_of_a_get(self, who, after):
        worker = self.worker(who)
        worker.tell("get", 1)
        spin(after)
        self.bury(worker)
        self.lose_first(sure=False)
        self.settle_senders()

    def teardown(self):
        try:
            if sys.exc_info()[0] is None and hasattr(self, "mailbox"):
                self.check_end()
        finally:
            self.clear()


def spin(microseconds):
    """Shorter than any sleep."""
    end = time.monotonic() + microseconds / 1e6
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize(("maxsize", "narrow"), [(0, False), (0, True), (3, False), (400, True)])
def test_does_what_its_model_does_at_each_place_in_turn(maxsize, narrow):
    """What chance may leave out."""
    machine = Machine()
    machine.make(maxsize, narrow)
    try:
        for kill, table in [(machine.kill_while_it_puts, PUTTING), (machine.kill_while_it_gets, GETTING)]:
            for where, shape in itertools.product(table, [SMALL[1], SMALL[-1], LARGE[-2]]):
                machine.settle()
                machine.put_shapes(0, [shape, SMALL[0]])
                kill(1, (where, shape))
                machine.look(0)
                machine.get(0)
                machine.put(0, SMALL[0])
        machine.check_end()
    finally:
        machine.clear()


@pytest.mark.timeout(600)  # a failure is made small first
@pytest.mark.parametrize(("method", "examples"), [("fork", 30), ("forkserver", 3), ("spawn", 3)])
def test_does_what_its_model_does(method, examples, monkeypatch):
    monkeypatch.setattr(Machine, "method", method)
    monkeypatch.setattr(_mailbox, "_LOOK_AGAIN", 0.005)  # for those that fork
    wanted = int(os.environ.get("PACTOR_EXAMPLES", 0))
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=wanted or examples,
            derandomize=not wanted,
            stateful_step_count=40,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
