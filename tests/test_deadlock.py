"""Actors that wait for each other are told so, and nobody else is."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
import types

import pytest
from support import LIMIT, eventually, reached, unread

from pactor import Actor, DeadlockError, _inbox, _wire, ask, current_actor
from pactor._deadlock import Deadlocks


class Node:
    """Asks others, and waits."""

    def __init__(self, *others):
        self.others = list(others)

    def join(self, other):
        self.others.append(other)

    def value(self):
        return 1

    def ask_next(self):
        """Asks the first of the others to ask the first of its others, and so on."""
        return ask(self.others[0].ask_next).result()

    def wait_for_value(self, timeout=None):
        return ask(self.others[0].value).result(timeout)

    def try_value(self, timeout=None):
        began = time.monotonic()
        try:
            ask(self.others[0].value).result(timeout)
        except DeadlockError as error:
            return str(error), time.monotonic() - began
        return None, time.monotonic() - began

    def both(self, gate, timeout=None):
        """Waits for the value of the first other as soon as the gate is there."""
        open(f"{gate}.{current_actor().name}", "w").close()
        eventually(gate.exists)
        return self.try_value(timeout)

    def work(self, seconds):
        """Is busy, with waits."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(random.random() * 0.05)
        return seconds

    def nested(self, depth, seconds):
        """Asks down a chain, at whose end there is work."""
        if depth == 0 or not self.others:
            return self.work(seconds)
        return ask(self.others[0].nested, depth - 1, seconds).result(LIMIT)

    def sort_of_later(self, seconds):
        """Asks itself, and does not wait for that."""
        self.own = ask(self.others[0].work, seconds)

    def later_is_done(self):
        return self.own.done()


def test_an_actor_that_asks_itself_is_told(context):
    with Actor(Node(), context=context, name="narcissus") as actor:
        actor.proxy.join(actor.proxy)
        text, seconds = ask(actor.proxy.try_value).result(LIMIT)
        assert "'narcissus' for value() of 'narcissus'" in text
        assert seconds < 0.5 * LIMIT  # half a second on an idle machine
        assert 1 == ask(actor.proxy.value).result(LIMIT)


def test_also_with_a_timeout():
    with Actor(Node()) as actor:
        actor.proxy.join(actor.proxy)
        text, _ = ask(actor.proxy.try_value, LIMIT).result(LIMIT)
        assert text


def test_asking_itself_without_waiting_is_no_deadlock():
    with Actor(Node()) as actor:
        actor.proxy.join(actor.proxy)
        actor.proxy.sort_of_later(0.01)
        eventually(lambda: ask(actor.proxy.later_is_done).result(LIMIT))


@pytest.mark.parametrize("size", [2, 3, 10])
def test_a_circle_is_named(context, size):
    if size == 10 and context.get_start_method() != "fork":
        pytest.skip("it is long enough under fork")
    nodes = [Actor(Node(), context=context, name=f"node {i}") for i in range(size)]
    for i, node in enumerate(nodes):
        node.proxy.join(nodes[(i + 1) % size].proxy)
    with pytest.raises(DeadlockError) as caught:
        ask(nodes[0].proxy.ask_next).result(LIMIT)
    for i in range(size):
        assert f"'node {i}' for ask_next() of 'node {(i + 1) % size}'" in str(caught.value)
    for node in nodes:
        assert 1 == ask(node.proxy.value).result(LIMIT)
        node.close()
    for node in nodes:
        assert node.join(LIMIT)


@pytest.mark.parametrize(("timeouts", "told"), [((None, LIMIT), 1), ((LIMIT, None), 0), ((5, LIMIT), 0)])
def test_of_two_the_one_that_gives_up_first_is_told(tmp_path, timeouts, told):
    """The other is answered then, so for it there is no deadlock."""
    gate = tmp_path / "gate"
    with Actor(Node(), name="left") as left, Actor(Node(), name="right") as right:
        left.proxy.join(right.proxy)
        right.proxy.join(left.proxy)
        asked = [ask(node.proxy.both, gate, timeouts[i]) for i, node in enumerate((left, right))]
        for name in ("left", "right"):
            eventually((tmp_path / f"gate.{name}").exists)
        gate.touch()
        answers = [future.result(LIMIT) for future in asked]
        assert answers[told][0]
        assert answers[1 - told][0] is None


def test_a_circle_that_a_timeout_breaks_in_time_is_none(tmp_path):
    """The one that waits longest may be answered: it is not told, and is answered."""
    gate = tmp_path / "gate"
    with Actor(Node(), name="patient") as patient, Actor(Impatient(), name="impatient") as impatient:
        patient.proxy.join(impatient.proxy)
        impatient.proxy.join(patient.proxy)
        waiting = ask(patient.proxy.both, gate)
        impatient.proxy.give_up_after(gate, 0.05)  # before anybody looks for a circle
        reached(gate)
        gate.touch()
        assert waiting.result(LIMIT)[0] is None


class Impatient(Node):
    def give_up_after(self, gate, seconds):
        open(f"{gate}.reached", "w").close()
        eventually(gate.exists)
        try:
            self.wait_for_value(seconds)
        except concurrent.futures.TimeoutError:
            pass


def test_a_bystander_of_a_circle_is_served_when_it_is_broken():
    """One that waits for an actor in the circle, but is not in it, is answered in the end."""
    with Actor(Node(), name="a") as a, Actor(Node(), name="b") as b, Actor(Node(), name="c") as c:
        a.proxy.join(b.proxy)
        b.proxy.join(a.proxy)
        c.proxy.join(a.proxy)
        circle = ask(a.proxy.ask_next)
        bystander = ask(c.proxy.try_value)
        with pytest.raises(DeadlockError):
            circle.result(LIMIT)
        assert bystander.result(LIMIT)[0] is None


def test_slow_nested_asks_are_never_taken_for_a_deadlock():
    """Chains that cross, long waits, and more actors at work than cores."""
    with Actor(Node(), name="end") as end:
        middles = [Actor(Node(end.proxy), name=f"middle {i}") for i in range(3)]
        fronts = [Actor(Node(middle.proxy), name=f"front {i}{j}") for i, middle in enumerate(middles) for j in range(2)]
        replies = []
        for _ in range(6):
            replies += [ask(front.proxy.nested, 2, random.random() * 0.05) for front in fronts]
            replies += [ask(middle.proxy.nested, 1, random.random() * 0.05) for middle in middles]
        stop = threading.Event()
        burner = threading.Thread(target=_burn, args=(stop,))
        burner.start()
        try:
            assert 54 == len([reply.result(2 * LIMIT) for reply in replies])
        finally:
            stop.set()
            burner.join()
            for actor in fronts + middles:
                actor.close()
            for actor in fronts + middles:
                actor.join()


def _burn(stop):
    while not stop.is_set():
        sum(range(1000))


def test_a_reply_on_its_way_is_no_deadlock(tmp_path):
    """One is stopped before it reads its reply: by all appearances it waits for one that waits for it."""
    gate = tmp_path / "gate"
    with Actor(Node(), name="stopped") as stopped, Actor(Late(gate), name="late") as late:
        stopped.proxy.join(late.proxy)
        late.proxy.join(stopped.proxy)
        reply = ask(stopped.proxy.wait_for_value)
        reached(gate)
        waiting = ask(late.proxy.try_value)
        eventually(lambda: unread(late._way.file) > 2 * PROBE)  # so long it has waited
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            gate.touch()  # now it is answered, and then asked
            eventually(lambda: unread(stopped._way.file) > 3 * PROBE)
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert waiting.result(LIMIT)[0] is None
        assert 1 == reply.result(LIMIT)


PROBE = 150  # bytes, about


class Late(Node):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def value(self):
        open(f"{self.gate}.reached", "w").close()
        eventually(self.gate.exists)
        return 1


class Parent(Node):
    """Waits for the end of an actor that asks it."""

    def has_child(self, method):
        with Actor(Node(current_actor().proxy), name="child", context=multiprocessing.get_context(method)) as child:
            self.answer = ask(child.proxy.try_value)

    def what_the_child_was_told(self):
        return self.answer.result(LIMIT)[0]


def test_a_child_that_asks_the_one_who_waits_for_its_end_is_told(context):
    with Actor(Parent(), context=context, name="parent") as parent:
        parent.proxy.has_child(context.get_start_method())
        text = ask(parent.proxy.what_the_child_was_told).result(LIMIT)
        assert "'child' for value() of 'parent', 'parent' for the end of 'child'" in text


class Party:
    """One actor's part in the search, without its process."""

    def __init__(self, directory, name):
        self.mailbox = str(directory / name)
        (directory / name).mkdir()
        os.mkfifo(f"{self.mailbox}/fifo")
        self.fd = os.open(f"{self.mailbox}/fifo", os.O_RDWR | os.O_NONBLOCK)
        _inbox.create(f"{self.mailbox}/inbox", self.fd)
        self.inbox = _inbox.Inbox(f"{self.mailbox}/inbox", self.fd)
        self.deadlocks = Deadlocks(self.mailbox, name, self.inbox)
        self.reader, writer = os.pipe()
        self.way = types.SimpleNamespace(file=writer)
        self.stack = contextlib.ExitStack()

    def waits(self, number, deadline=None):
        replies = types.SimpleNamespace(mailbox=f"{self.mailbox}/replies")
        future = types.SimpleNamespace(_replies=replies, _number=number, _way=self.way)
        return self.stack.enter_context(self.deadlocks.waiting(future, deadline))

    def is_asked_by(self, other, number):
        asker = f"{other.mailbox}/replies".encode()
        head = _wire.ASK_HEAD.pack(number, len(asker)) + asker
        os.write(self.fd, _wire.pack(self.mailbox, _wire.ASK, head, ("method", (), {})))
        self.inbox.pull()

    def answers(self):
        self.inbox.take()
        self.inbox.finish()

    def sent(self):
        """The probes that it has sent since."""
        os.set_blocking(self.reader, False)
        try:
            return os.read(self.reader, 10_000)
        except BlockingIOError:
            return b""

    def gets(self, frames):
        os.write(self.fd, frames)
        self.deadlocks.look(self.inbox.pull())

    def close(self):
        self.stack.close()
        self.inbox.close()
        for fd in (self.fd, self.reader, self.way.file):
            os.close(fd)


@pytest.fixture
def parties(tmp_path):
    made = [Party(tmp_path, name) for name in "ab"]
    yield made
    for party in made:
        party.close()


def _go_around(parties, deadlines, answered=None):
    """Both wait for each other, or seem to; returns whom a probe of the first has told that."""
    a, b = parties
    waits = [party.waits(7, deadline) for party, deadline in zip(parties, deadlines, strict=True)]
    b.is_asked_by(a, 7)
    a.is_asked_by(b, 7)
    if answered is not None:
        parties[answered].answers()
    a.deadlocks.probe(waits[0])
    b.gets(a.sent())
    a.gets(b.sent())
    return bool(waits[0].circle)


@pytest.mark.parametrize(
    ("deadlines", "told"),
    [((None, None), True), ((5, None), True), ((None, 5), False), ((5, 5), True), ((6, 5), False), ((5, 6), True)],
)
def test_a_probe_tells_the_one_that_nobody_frees_earlier(parties, deadlines, told):
    assert told == _go_around(parties, deadlines)


@pytest.mark.parametrize("answered", [0, 1])
def test_a_probe_ends_where_the_ask_was_answered(parties, answered):
    assert not _go_around(parties, (None, None), answered)


def test_a_probe_of_an_earlier_wait_tells_nobody(parties):
    a, b = parties
    with a.deadlocks.waiting(types.SimpleNamespace(_number=6, _way=a.way, _replies=a), None):
        later = a.waits(7)
        b.waits(7)
        b.is_asked_by(a, 7)
        a.is_asked_by(b, 7)
        a.deadlocks.probe(later)
        b.gets(a.sent())
        frames = b.sent()
        inner = a.waits(8)  # in a callback, say
        a.gets(frames)
        assert not later.circle and not inner.circle


def test_a_probe_that_comes_by_has_one_sent_soon(parties):
    a, b = parties
    waits = [party.waits(7) for party in parties]
    for _ in range(10):
        waits[1].next_probe = 0
        b.deadlocks.probe(waits[1])  # they are sent less and less often
    b.sent()
    b.is_asked_by(a, 7)
    a.deadlocks.probe(waits[0])
    b.gets(a.sent())
    assert waits[1].next_probe <= time.monotonic() + 2 * Deadlocks.PATIENCE


@pytest.mark.parametrize("body", [b"", b"rubbish", pickle.dumps(3), pickle.dumps(((1, 2, 3, 4, 5), "a", b"b", 3))])
def test_what_is_no_probe_is_ignored(parties, body):
    wait = parties[0].waits(7)
    parties[0].gets(_wire.frame(_wire.PROBE, b"", body))
    assert not wait.circle
