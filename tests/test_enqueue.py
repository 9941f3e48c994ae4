"""Messages of an actor to itself: now, and later."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import sys
import threading

import pytest
from enqueue_actors import Enqueues, Selfish
from programs import run
from support import LIMIT, Recorder, eventually, reached, results, sleeps

from pactor import Actor, Enqueue, ask
from pactor._slots import ReaderSlots


@pytest.fixture
def selfish(context):
    with Actor(Selfish(), context=context) as actor:
        yield actor.proxy


def seen(proxy, count):
    """What it has noted, once that is so many things."""
    eventually(lambda: len(ask(proxy.all).result(LIMIT)) >= count)
    return ask(proxy.all).result(LIMIT)


def test_goes_behind_what_is_queued(selfish, tmp_path):
    selfish.wait_for(tmp_path / "gate")
    selfish.enqueue_many(3)
    selfish.note("mine")
    (tmp_path / "gate").touch()
    assert ["mine", 0, 1, 2] == seen(selfish, 4)


def test_a_flood_of_self_messages_does_not_keep_the_inbox(context):
    """Each message executed enqueues one: what was executed must make room."""
    with Actor(Recorder(), context=context) as actor:
        for _ in range(2_000):
            actor.proxy.note_and_repeat(20)
        futures = [ask(actor.proxy.echo, i) for i in range(10)]
        assert list(range(10)) == [future.result(LIMIT) for future in futures]
        assert sorted([*range(1, 21)] * 2_000) == sorted(seen(actor.proxy, 40_000))


def test_works_with_a_bound_on_the_mailbox(context):
    with Actor(Recorder(), maxsize=1, context=context) as actor:
        actor.proxy.enqueue_many(1_000)
        assert list(range(1_000)) == seen(actor.proxy, 1_000)


def test_its_first_use_may_be_in_several_threads_at_once(selfish):
    def enqueue(first):
        together.wait(LIMIT)
        first.method(Selfish.wrong)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in range(50):
                together = threading.Barrier(8)
                results([pool.submit(enqueue, first) for first in [Enqueue(selfish)] * 8])
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("what", ["function", "other", "another", "text", "arguments", "builtin"])
def test_takes_only_methods_of_its_own_object_with_arguments_that_fit(selfish, what):
    error = ask(selfish.wrong, what).result(LIMIT)
    assert ("Selfish.exit()" if what == "arguments" else "a method of its own object") in error


def test_what_cannot_be_pickled_raises_at_once(selfish):
    assert ask(selfish.unpicklable).result(LIMIT) in ("AttributeError", "PicklingError")


def test_is_an_enqueue(selfish):
    is_one, text = ask(selfish.kinds).result(LIMIT)
    assert is_one
    assert "<Enqueue of <proxy of Selfish 'Selfish-" in text


def test_the_object_can_be_sent_with_it(selfish):
    copy = ask(selfish.snapshot).result(LIMIT)
    copy.enqueue(copy.note, "from outside")
    assert ["from outside"] == seen(selfish, 1)
    with pytest.raises(RuntimeError, match="own process"):
        copy.enqueue_later(1, copy.note)


def test_later_is_never_early_and_in_order_of_the_deadlines(selfish):
    delays = [0.05, 0.01, 0.03, 0, 0.02]
    selfish.later(*delays)
    arrived = seen(selfish, len(delays))
    assert [] == [(due_from, at) for due_from, _, at in arrived if at < due_from]
    for (due_from, _, _), (_, due_before, _) in itertools.combinations(arrived, 2):
        assert due_from < due_before  # between two calls there may be a pause that is longer than the delay


def test_equal_delays_come_in_the_order_of_the_calls(selfish):
    selfish.later_many(1_000)
    assert list(range(1_000)) == seen(selfish, 1_000)


def test_a_cancelled_one_does_not_come(selfish):
    selfish.later_cancelled()
    assert [1, 3, 5, 7, 9] == seen(selfish, 5)


@pytest.mark.parametrize(("delay", "error"), [(-1, ValueError), (float("nan"), ValueError), ("soon", TypeError)])
def test_a_wrong_delay_raises(selfish, delay, error):
    raised = ask(selfish.later_wrong, delay).result(LIMIT)
    assert error is type(raised)
    assert str(raised).startswith("the delay must be a number of seconds")


@pytest.mark.parametrize("cancel", [False, True])
def test_a_large_message_may_come_later(selfish, cancel):
    selfish.later_large(cancel)
    if not cancel:
        assert [bytes(1_000_000)] == seen(selfish, 1)


def test_a_signal_handler_of_an_idle_actor_may_call_later(selfish, gate):
    pid = ask(selfish.later_on_signal, gate).result(LIMIT)
    eventually(lambda: sleeps(pid))
    os.kill(pid, signal.SIGUSR1)
    reached(gate)  # no message, which would have the actor look at its timers
    gate.touch()


def test_close_drops_what_is_still_waiting(context):
    with Actor(Selfish(), context=context) as actor:
        actor.proxy.later(1_000)
    assert not actor.is_alive()


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "large"])
def test_what_an_actor_sends_itself_frees_no_room_that_others_took(tmp_path, size):
    gates = [tmp_path / name for name in "abc"]
    with Actor(Enqueues(), maxsize=3) as actor:
        actor.wait_for(gates[0])
        reached(gates[0])
        actor.enqueue_of_size(size)
        actor.enqueue_of_size(size)
        actor.wait_for(gates[1])
        gates[0].touch()
        reached(gates[1])
        # Behind what it has sent itself:
        actor.wait_for(gates[2])
        actor.note("one")
        actor.note("two")
        gates[1].touch()
        reached(gates[2])
        assert 2 == slots_taken(actor, 3)
        gates[2].touch()
        assert [bytes(size), bytes(size), "one", "two"] == ask(actor.proxy.all).result(LIMIT)


def test_a_thread_enqueues_where_the_module_was_about_to_be_imported(tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "program.py").write_text("import application")
    assert "['tick']" == run("program.py", "fork", tmp_path).strip()


#: In the actor, its own import never ends.
APPLICATION = """
import threading
from pactor import Actor, ask

class Ticker:
    def __init__(self):
        self.seen = []

    def tick(self):
        self.seen.append("tick")

    def tick_from_a_thread(self):
        thread = threading.Thread(target=lambda: self.enqueue(self.tick), daemon=True)
        thread.start()
        thread.join(10)

    def all(self):
        return self.seen

with Actor(Ticker()) as ticker:
    ask(ticker.proxy.tick_from_a_thread).result(timeout=60)
    print(ask(ticker.proxy.all).result(timeout=60))
"""


def slots_taken(actor, maxsize):
    slots = ReaderSlots(actor._mailbox.directory, maxsize)
    try:
        return slots.taken()
    finally:
        slots.close()
